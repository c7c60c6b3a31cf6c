"""Comparing a target with PyTorch, from text to vector, and with itself in other batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import Parity, TargetEntry
from ese_deploy.bundle.reader import Bundle, read_graph
from ese_deploy.bundle.tolerances import NORM_TOLERANCE, TOLERANCES, Tolerance
from ese_deploy.engines import Engine
from ese_deploy.runtime import Encoder
from ese_deploy.verify.emulate import engine_for
from ese_deploy.verify.fidelity import fidelity_failures

__all__ = ["COSINE_GATE", "MAX_ABS_GATE", "TargetCheck", "check_target"]

MAX_ABS_GATE = TOLERANCES["fp32"].max_abs
COSINE_GATE = TOLERANCES["fp32"].cosine_min

_BATCH_SIZES = (1, 2, 7, 32)
_UNBOUNDED = 1 << 40
_SAME = 1 - 1e-6
_PADDED_TEXTS = 6

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class TargetCheck:
    """What verification found of one target.

    Attributes:
        entry: the target.
        parity: figures for the manifest; ``passed`` says whether every check held.
        batch_max_abs: largest difference of a text's vector between batch sizes 1, 2, 7 and 32.
        padding_max_abs: largest difference that more padding makes.
        norm_max_abs: largest distance of a norm from 1.
        failures: a line for each check that did not hold.
    """

    entry: TargetEntry
    parity: Parity
    batch_max_abs: float
    padding_max_abs: float
    norm_max_abs: float
    failures: tuple[str, ...]


def check_target(
    bundle: Bundle, entry: TargetEntry, engine: Engine, texts: Sequence[str], expected: Vectors
) -> TargetCheck:
    """Run a target over texts and compare; the target's dtype says how close it must come.

    An engine that does not compute in that dtype runs an emulation, and the figures say so.

    Args:
        bundle: the bundle.
        entry: the target.
        engine: the engine that runs it; one told to compute fp32 in bf16 must come as close as bf16.
        texts: what to embed.
        expected: PyTorch's vectors for ``texts``, float32 [n, dim].

    Raises:
        EngineError: the engine refused the graph.
    """
    gate = _gate(engine, entry)
    runner = engine_for(engine, entry.dtype)
    encoder = Encoder.open(bundle, entry.target, engine=runner, log_truncated=False)
    runs = [encoder.encode(texts, batch_size=size, batch_tokens=_UNBOUNDED) for size in _BATCH_SIZES]
    padded = _encode_padded(encoder, texts)
    found = np.stack(runs)
    max_abs = _max_abs(found - expected)
    cosine_min = float(np.nan_to_num((found.astype(np.float64) * expected).sum(-1), nan=-1.0).min())
    batch = max(_max_abs(run - runs[0]) for run in runs)
    padding = _max_abs(padded - runs[0][: len(padded)])
    recognised = min(_recognised(run, expected) for run in runs)
    norm = _max_abs(np.linalg.norm(found.astype(np.float64), axis=-1) - 1)
    checks: list[tuple[bool, Callable[[], str]]] = [
        (bool(np.isfinite(found).all()), lambda: "a vector holds NaN or infinity"),
        (
            max_abs <= gate.max_abs,
            lambda: f"max |difference| from PyTorch {max_abs:.2e}, allowed {gate.max_abs:.0e}",
        ),
        (
            cosine_min >= gate.cosine_min,
            lambda: f"lowest cosine with PyTorch {cosine_min:.7f}, allowed {gate.cosine_min}",
        ),
        (
            batch <= gate.invariance,
            lambda: f"batch size moves a vector by {batch:.2e}, allowed {gate.invariance:.0e}",
        ),
        (
            padding <= gate.invariance,
            lambda: f"padding moves a vector by {padding:.2e}, allowed {gate.invariance:.0e}",
        ),
        (
            recognised >= gate.recognised,
            lambda: f"{recognised:.0%} of the texts are nearest to themselves, allowed {gate.recognised:.0%}",
        ),
        (norm <= NORM_TOLERANCE, lambda: f"a norm is off 1 by {norm:.2e}, allowed {NORM_TOLERANCE:.0e}"),
    ]
    # Of int8 the export decided on held texts too, and what failed there has not become better.
    held_texts = () if entry.fidelity is None else fidelity_failures(entry.fidelity)
    failures = (*_interface_failures(bundle, entry), *(say() for held, say in checks if not held), *held_texts)
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


def _gate(engine: Engine, entry: TargetEntry) -> Tolerance:
    """The gate of the target's dtype; that of bf16 where an engine was told to compute fp32 in bf16."""
    return TOLERANCES["bf16" if entry.dtype == "fp32" and "bf16" in engine.device else entry.dtype]


def _recognised(found: Vectors, expected: Vectors) -> float:
    """The share of vectors that are nearer to PyTorch's of the same text than to PyTorch's of any other text.

    Texts of the same vector, such as those cut to the same tokens, are one.
    """
    exact = expected.astype(np.float64)
    cosines = np.nan_to_num(found @ exact.T, nan=-1.0)
    others = np.where(exact @ exact.T > _SAME, -1.0, cosines)
    return float((cosines.diagonal() > others.max(1, initial=-1.0)).mean())


def _encode_padded(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """Embed the first texts in one batch with the longest of all, so that each is padded to its length."""
    longest = max(texts, key=len)
    batch = [*texts[:_PADDED_TEXTS], longest]
    return encoder.encode(batch, batch_size=len(batch), batch_tokens=_UNBOUNDED)[:-1]


def _interface_failures(bundle: Bundle, entry: TargetEntry) -> list[str]:
    """Compare the graph's inputs and output with the contract: names, dtypes, symbolic axes."""
    graph = onnx.load_from_string(read_graph(bundle, entry)).graph
    found = {_describe(value) for value in (*graph.input, *graph.output)}
    manifest = bundle.manifest
    expected = {f"{name}: int64 [batch, sequence]" for name in manifest.inputs}
    expected.add(f"{manifest.output}: float32 [batch, {entry.dim}]")
    return [f"the graph has {', '.join(sorted(found))}; it must have {', '.join(sorted(expected))}"] * (
        found != expected
    )


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    axes = ", ".join(axis.dim_param or str(axis.dim_value) for axis in tensor.shape.dim)
    return f"{value.name}: {dtype} [{axes}]"


def _max_abs(difference: NDArray[np.floating]) -> float:
    # JSON knows no infinity.
    return float(np.nan_to_num(np.abs(difference), nan=float(np.finfo(np.float32).max)).max(initial=0.0))
