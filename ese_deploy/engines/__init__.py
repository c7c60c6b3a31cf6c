"""Inference engines: one file each, behind the protocol of :mod:`ese_deploy.engines.base`."""

from ese_deploy.engines.base import Engine, Session
from ese_deploy.errors import EngineError

__all__ = ["ENGINES", "Engine", "Session", "load_engine"]

ENGINES = ("onnxruntime",)


def load_engine(name: str) -> Engine:
    """Load an engine by name.

    Raises:
        EngineError: there is no such engine, or its library is missing or broken.
    """
    if name == "onnxruntime":
        from ese_deploy.engines.onnxruntime_cpu import OnnxRuntimeCpu

        return OnnxRuntimeCpu()
    raise EngineError(f"there is no engine '{name}'; choose one of {', '.join(ENGINES)}")
