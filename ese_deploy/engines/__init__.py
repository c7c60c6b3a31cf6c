"""Inference engines: one file each, behind the protocol of :mod:`ese_deploy.engines.base`."""

from ese_deploy.engines.base import Engine, Session
from ese_deploy.errors import EngineError

__all__ = ["ACCELERATED", "ENGINES", "Engine", "Session", "engines_for", "load_engine", "require_dtype", "runs_dtype"]

# For each engine the dtypes that it computes in.
_DTYPES = {
    "onnxruntime": ("fp32",),
}

ENGINES = tuple(_DTYPES)

ACCELERATED: frozenset[str] = frozenset()
"""Engines that need an accelerator; they are chosen only where they are named."""


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

    Raises:
        EngineError: there is no such engine, or its library is missing or broken.
    """
    if name == "onnxruntime":
        from ese_deploy.engines.onnxruntime_cpu import OnnxRuntimeCpu

        return OnnxRuntimeCpu()
    raise EngineError(f"there is no engine '{name}'; choose one of {', '.join(ENGINES)}")
