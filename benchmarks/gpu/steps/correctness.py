"""Step b: the CUDA engine loads, computes on the GPU, and gives PyTorch's vectors."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.baselines import reference
from benchmarks.gpu.models import DTYPES, bundle_folder, is_made, model_folder, require_model
from benchmarks.gpu.ours import open_encoder, placement, token_session
from benchmarks.gpu.records import Record
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.step import Step, run
from ese_deploy.bundle.tolerances import NORM_TOLERANCE, TOLERANCES
from ese_deploy.runtime.encoder import Encoder
from ese_deploy.texts.sample import sample_corpus

_THREADS = 16
# Each edge case is a text that has broken an embedding model before; the long one reaches the position limit.
_EDGE_CASES = ("", ".", "a", "你好，世界。", "\U0001f600\U0001f680", "MiXeD CaSe 1,234.56 €", "word " * 600)

Vectors = NDArray[np.float32]


def check_correctness(step: Step) -> None:
    """Compare all models with PyTorch, those first that are exported first, and use one from 16 threads."""
    pending = list(step.shapes.values())
    while pending and not step.late:
        shape = next((shape for shape in pending if is_made(step.work, shape.name)), None)
        if shape is None:
            time.sleep(0.2)
            continue
        for depth in shape.ends:
            _check_exit(step, shape, depth)
        if len(pending) == len(step.shapes):
            _check_threads(step, shape)
        pending.remove(shape)


def _texts(step: Step) -> list[str]:
    return [*_EDGE_CASES, *(item.text for item in sample_corpus()[:: 64 if step.tiny else 16])]


def _check_exit(step: Step, shape: Shape, depth: int) -> None:
    texts = _texts(step)
    expected: list[Vectors] = []
    for dtype in DTYPES:
        target = f"{depth}x{shape.hidden}" + ("" if dtype == "fp32" else f":{dtype}")
        if dtype != "fp32" and step.device == "cpu":
            continue  # no CPU engine computes in 16 bits
        with step.case(case="parity", model=shape.name, depth=depth, dtype=dtype) as found:
            bundle = require_model(step, shape.name)
            session = token_session(bundle, target, step.device)
            found |= {"nodes": (placed := placement(session)).counts, "nodes_on_cpu": placed.on_cpu}
            if not expected:
                expected.append(reference(model_folder(step.work, shape.name), shape, depth, texts, step.device))
            _compare(found, open_encoder(bundle, target, step.device), texts, expected[0], dtype)


def _compare(found: Record, encoder: Encoder, texts: Sequence[str], expected: Vectors, dtype: str) -> None:
    tolerance = TOLERANCES[dtype]
    alone = encoder.encode(texts, batch_size=1)
    batched = encoder.encode(texts, batch_size=8)
    # The long text pads all others of its batch to the longest row.
    padded = encoder.encode(texts, batch_size=len(texts), batch_tokens=1 << 30)
    cosines = (alone * expected).sum(1) / np.linalg.norm(alone, axis=1)
    found["cosine_min"] = float(cosines.min())
    found["max_abs"] = float(np.abs(alone - expected).max())
    found["batch_max_abs"] = float(np.abs(alone - batched).max())
    found["padding_max_abs"] = float(np.abs(alone - padded).max())
    found["norm_max_abs"] = float(np.abs(np.linalg.norm(alone, axis=1) - 1).max())
    limits = {
        "max_abs": tolerance.max_abs,
        "batch_max_abs": tolerance.invariance,
        "padding_max_abs": tolerance.invariance,
        "norm_max_abs": NORM_TOLERANCE,
    }
    misses = [f"{name} {found[name]:.2g} > {limit:g}" for name, limit in limits.items() if not found[name] <= limit]
    if not found["cosine_min"] >= tolerance.cosine_min:
        misses.append(f"cosine_min {found['cosine_min']:.6f} < {tolerance.cosine_min}")
    if misses:
        raise AssertionError(", ".join(misses))


def _check_threads(step: Step, shape: Shape) -> None:
    """Sixteen threads with one encoder, each with batches of its own sizes."""
    dtype = "fp16" if step.device == "cuda" else "fp32"
    with step.case(case="threads", model=shape.name, threads=_THREADS, dtype=dtype) as found:
        require_model(step, shape.name)
        target = f"{shape.layers}x{shape.hidden}" + (":fp16" if dtype == "fp16" else "")
        encoder = open_encoder(bundle_folder(step.work, shape.name), target, step.device)
        texts = _texts(step)
        expected = encoder.encode(texts)

        def encode(worker: int) -> float:
            first = worker % len(texts)
            vectors = encoder.encode(texts[first:] + texts[:first], batch_size=1 + worker % 4)
            return float(np.abs(np.roll(vectors, first, axis=0) - expected).max())

        with ThreadPoolExecutor(_THREADS) as pool:
            found["max_abs"] = max(pool.map(encode, range(_THREADS)))
        if not found["max_abs"] <= (limit := TOLERANCES[dtype].invariance):
            raise AssertionError(f"max_abs {found['max_abs']:.2g} > {limit:g}")


if __name__ == "__main__":
    run("correctness", check_correctness)
