"""Inference engines: one file each, behind the protocol of :mod:`ese_deploy.engines.base`."""

from dataclasses import dataclass

from ese_deploy.engines.base import Engine, EngineInput, Session, Streaming
from ese_deploy.errors import EngineError

__all__ = [
    "ACCELERATED",
    "DEFAULT_ENGINE",
    "ENGINES",
    "OPT_IN_ENGINES",
    "Batch",
    "Engine",
    "EngineInput",
    "Session",
    "Streaming",
    "batch_for",
    "engines_for",
    "load_engine",
    "require_dtype",
    "runs_dtype",
]

# For each engine the dtypes that it computes in.
_DTYPES = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "int8"),
    "onnxruntime-cuda": ("fp32", "fp16", "bf16"),
    "tensorrt": ("fp16", "bf16", "int8-fp16"),
    "onnxruntime-tensorrt": ("fp16", "bf16", "int8-fp16"),
}

ENGINES = tuple(_DTYPES)

DEFAULT_ENGINE = "onnxruntime"
"""The engine where none is named."""

ACCELERATED = frozenset({"onnxruntime-cuda", "tensorrt", "onnxruntime-tensorrt"})
"""Engines that need an accelerator."""

OPT_IN_ENGINES = ACCELERATED | {"openvino"}
"""Engines that few machines have; they are chosen only where they are named."""


@dataclass(frozen=True)
class Batch:
    """How much an engine is given at once, unless the user says otherwise.

    Attributes:
        size: most rows.
        tokens: most tokens, padding included.
    """

    size: int = 64
    tokens: int = 256


# Of the budgets measured, the fastest over lengths, dtypes and thread counts (benchmarks/README.md).
_OPENVINO_BATCH = Batch(tokens=512)
# A GPU idles on what fills a CPU's caches.
_GPU_BATCH = Batch(size=512, tokens=16384)


def batch_for(name: str) -> Batch:
    """The batch that suits an engine."""
    if name in ACCELERATED:
        return _GPU_BATCH
    return _OPENVINO_BATCH if name == "openvino" else Batch()


def engines_for(dtype: str) -> list[str]:
    """Engines that compute in ``dtype``."""
    return [name for name in ENGINES if dtype in _DTYPES[name]]


def runs_dtype(name: str, dtype: str) -> bool:
    """Whether an engine computes in ``dtype``; one that is not of this package is taken to."""
    return dtype in _DTYPES.get(name, (dtype,))


def require_dtype(name: str, target: str, dtype: str) -> None:
    """Check that an engine computes in a target's dtype.

    Raises:
        EngineError: it does not.
    """
    if not runs_dtype(name, dtype):
        others = engines_for(dtype)
        instead = f"the engine {' or '.join(others)}, or " if others else ""
        raise EngineError(
            f"target {target} computes in {dtype}, which the engine '{name}' does not; "
            f"choose {instead}a target of dtype {' or '.join(_DTYPES[name])}"
        )


def load_engine(name: str) -> Engine:
    """Load an engine by name.

    Args:
        name: one of :data:`ENGINES`; behind one that needs a GPU may stand the GPU's number, as in
            ``onnxruntime-cuda:1``, and behind openvino ``:bf16``, which lets it compute graphs of fp32 in bf16.

    Raises:
        EngineError: there is no such engine, no such device, or its library is missing or broken.
    """
    kind, _, number = name.partition(":")
    if kind not in ENGINES:
        raise EngineError(f"there is no engine '{name}'; choose one of {', '.join(ENGINES)}")
    if kind == "openvino":
        from ese_deploy.engines.openvino import OpenVino

        if number not in ("", "bf16"):
            raise EngineError(f"engine '{name}' names nothing that OpenVINO does; write openvino or openvino:bf16")
        return OpenVino(bf16=number == "bf16")
    if number and (kind not in ACCELERATED or not number.isdecimal()):
        raise EngineError(f"engine '{name}' names no device; write for example onnxruntime-cuda:1 for the second GPU")
    if kind == "onnxruntime-cuda":
        from ese_deploy.engines.onnxruntime_cuda import OnnxRuntimeCuda

        return OnnxRuntimeCuda(int(number or 0))
    if kind == "tensorrt":
        from ese_deploy.engines.tensorrt import TensorRt

        return TensorRt(int(number or 0))
    if kind == "onnxruntime-tensorrt":
        from ese_deploy.engines.onnxruntime_tensorrt import OnnxRuntimeTensorRt

        return OnnxRuntimeTensorRt(int(number or 0))
    from ese_deploy.engines.onnxruntime_cpu import OnnxRuntimeCpu

    return OnnxRuntimeCpu()
