"""The engine that stands in for CUDA's where there is no GPU: the same session with IO binding, on the CPU."""

from ese_deploy.engines import EngineInput
from ese_deploy.engines.onnxruntime_cpu import import_onnxruntime
from ese_deploy.engines.onnxruntime_gpu import GpuSession, load_session

__all__ = ["BoundCpu"]


class BoundCpu:
    """ONNX Runtime's CPU provider through the code of the GPU engines, to try the benchmark."""

    name, device = "onnxruntime", "cpu"

    def __init__(self) -> None:
        self._onnxruntime = import_onnxruntime()
        self.versions = {"onnxruntime": str(self._onnxruntime.__version__)}

    def load(self, source: EngineInput, threads: int) -> GpuSession:
        """Load a graph."""
        providers: list[tuple[str, dict[str, str]]] = [("CPUExecutionProvider", {})]
        return load_session(self._onnxruntime, providers, source, threads, device="cpu")
