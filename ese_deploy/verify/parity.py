"""Comparing the vectors of a target with PyTorch's, and with its own in other batches."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import Parity, TargetEntry
from ese_deploy.bundle.reader import Bundle, read_graph
from ese_deploy.bundle.tolerances import NORM_TOLERANCE, TOLERANCES, Tolerance, fidelity_failures
from ese_deploy.engines import Engine
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.vectors import unchecked_vectors
from ese_deploy.verify.emulate import engine_for
from ese_deploy.verify.report import TargetCheck

__all__ = ["check_target"]

_BATCH_SIZES = (1, 2, 7, 32)
_UNBOUNDED = 1 << 40
_SAME = 1 - 1e-6
_PADDED_TEXTS = 6

Vectors = NDArray[np.float32]


def check_target(
    bundle: Bundle, entry: TargetEntry, engine: Engine, texts: Sequence[str], expected: Vectors
) -> TargetCheck:
    """Embed texts with a target and compare, with the tolerance of the target's dtype.

    An engine that does not compute in that dtype emulates it, and the figures say so.

    Args:
        bundle: the bundle.
        entry: the target.
        engine: the engine that runs the graph; if it computes fp32 in bf16, the tolerance is that of bf16.
        texts: the texts to embed.
        expected: PyTorch's vectors for ``texts``, float32 [n, dim].

    Raises:
        EngineError: the engine cannot run the graph.
    """
    tolerance = _tolerance(engine, entry)
    runner = engine_for(engine, entry.dtype)
    encoder = Encoder.open(bundle, entry.target, engine=runner, log_truncated=False)
    with unchecked_vectors():
        runs = [encoder.encode(texts, batch_size=size, batch_tokens=_UNBOUNDED) for size in _BATCH_SIZES]
        padded = _encode_padded(encoder, texts)
    found = np.stack(runs)
    max_abs = _max_abs(found - expected)
    cosine_min = float(np.nan_to_num((found.astype(np.float64) * expected).sum(-1), nan=-1.0).min())
    batch = max(_max_abs(run - runs[0]) for run in runs)
    padding = _max_abs(padded - runs[0][: len(padded)])
    recognised = min(_recognised(run, expected) for run in runs)
    norm = _max_abs(np.linalg.norm(found.astype(np.float64), axis=-1) - 1)
    checks = [
        (bool(np.isfinite(found).all()), "a vector contains NaN or infinity"),
        (
            max_abs <= tolerance.max_abs,
            f"max |difference| from PyTorch {max_abs:.2e}, allowed {tolerance.max_abs:.0e}",
        ),
        (
            cosine_min >= tolerance.cosine_min,
            f"lowest cosine with PyTorch {cosine_min:.7f}, allowed {tolerance.cosine_min}",
        ),
        (
            batch <= tolerance.invariance,
            f"the batch size changes a vector by {batch:.2e}, allowed {tolerance.invariance:.0e}",
        ),
        (
            padding <= tolerance.invariance,
            f"padding changes a vector by {padding:.2e}, allowed {tolerance.invariance:.0e}",
        ),
        (
            recognised >= tolerance.recognised,
            f"{recognised:.0%} of the texts are nearest to themselves, allowed {tolerance.recognised:.0%}",
        ),
        (norm <= NORM_TOLERANCE, f"a norm differs from 1 by {norm:.2e}, allowed {NORM_TOLERANCE:.0e}"),
    ]
    # The export checked the quality of int8 on held-out texts; a failure there stays one.
    quality = () if entry.fidelity is None else fidelity_failures(entry.fidelity)
    failures = (*_interface_failures(bundle, entry), *(line for passed, line in checks if not passed), *quality)
    parity = Parity(
        engine=engine.name,
        device=engine.device,
        versions=engine.versions,
        max_abs=max_abs,
        cosine_min=cosine_min,
        n=len(texts),
        passed=not failures,
        emulated=runner is not engine,
    )
    return TargetCheck(entry, parity, batch, padding, norm, failures)


def _tolerance(engine: Engine, entry: TargetEntry) -> Tolerance:
    """The tolerance of the target's dtype; that of bf16 if the engine computes fp32 in bf16."""
    return TOLERANCES["bf16" if entry.dtype == "fp32" and "bf16" in engine.device else entry.dtype]


def _recognised(found: Vectors, expected: Vectors) -> float:
    """The share of vectors that are nearest to PyTorch's vector of the same text.

    Texts with equal vectors, such as texts that are truncated to the same tokens, count as one.
    """
    exact = expected.astype(np.float64)
    cosines = np.nan_to_num(found @ exact.T, nan=-1.0)
    others = np.where(exact @ exact.T > _SAME, -1.0, cosines)
    return float((cosines.diagonal() > others.max(1, initial=-1.0)).mean())


def _encode_padded(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """Embed the first texts in one batch with the longest text, so that they are padded to its length."""
    longest = max(texts, key=len)
    batch = [*texts[:_PADDED_TEXTS], longest]
    return encoder.encode(batch, batch_size=len(batch), batch_tokens=_UNBOUNDED)[:-1]


def _interface_failures(bundle: Bundle, entry: TargetEntry) -> list[str]:
    """Compare names, dtypes and axes of the graph's inputs and output with the manifest."""
    graph = onnx.load_from_string(read_graph(bundle, entry)).graph
    found = {_describe(value) for value in (*graph.input, *graph.output)}
    manifest = bundle.manifest
    expected = {f"{name}: int64 [batch, sequence]" for name in manifest.inputs}
    expected.add(f"{manifest.output}: float32 [batch, {entry.dim}]")
    return [f"the graph has {', '.join(sorted(found))}; expected are {', '.join(sorted(expected))}"] * (
        found != expected
    )


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    axes = ", ".join(axis.dim_param or str(axis.dim_value) for axis in tensor.shape.dim)
    return f"{value.name}: {dtype} [{axes}]"


def _max_abs(difference: NDArray[np.floating]) -> float:
    # JSON has no NaN.
    return float(np.nan_to_num(np.abs(difference), nan=float(np.finfo(np.float32).max)).max(initial=0.0))
