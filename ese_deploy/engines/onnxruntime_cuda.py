"""ONNX Runtime's CUDA provider."""

from ese_deploy.engines.base import EngineInput
from ese_deploy.engines.cuda import find_gpu
from ese_deploy.engines.onnxruntime_cpu import import_onnxruntime
from ese_deploy.engines.onnxruntime_gpu import GpuSession, load_session, require_provider

__all__ = ["OnnxRuntimeCuda", "cuda_options"]

_PROVIDER = "CUDAExecutionProvider"


def cuda_options(index: int, tf32: bool) -> dict[str, str]:
    """Options of the CUDA provider.

    Args:
        index: the GPU's number.
        tf32: round the factors of fp32 products to 10 bits of mantissa.
    """
    return {
        "device_id": str(index),
        "use_tf32": str(int(tf32)),
        # Without it the fused kernel of a sum and a norm adds up in fp16.
        "enable_skip_layer_norm_strict_mode": "1",
        # Batches grow until the longest has come; doubling the arena would take twice the memory that is needed.
        "arena_extend_strategy": "kSameAsRequested",
    }


class OnnxRuntimeCuda:
    """Runs graphs on a GPU with ONNX Runtime.

    Args:
        index: the GPU's number among the GPUs that the process sees.
        tf32: round the factors of fp32 products to 10 bits of mantissa. fp32 targets then exceed their tolerance.
        allow_cpu: accept nodes that compute on the CPU because the provider has no kernel for them.

    Raises:
        EngineError: there is no GPU, its driver is too old, or a library is missing.
    """

    name = "onnxruntime-cuda"

    def __init__(self, index: int = 0, *, tf32: bool = False, allow_cpu: bool = False) -> None:
        self._onnxruntime = import_onnxruntime("gpu")
        self._gpu = find_gpu(index)
        require_provider(self._onnxruntime, _PROVIDER)
        self._tf32, self._allow_cpu = tf32, allow_cpu
        self.device = f"{self._gpu.name}, TF32 {'on' if tf32 else 'off'}"
        self.versions = {"onnxruntime": str(self._onnxruntime.__version__)}

    def load(self, source: EngineInput, threads: int) -> GpuSession:
        """Load a graph; see :meth:`ese_deploy.engines.base.Engine.load`."""
        providers = [(_PROVIDER, cuda_options(self._gpu.index, self._tf32))]
        return load_session(
            self._onnxruntime, providers, source, threads, index=self._gpu.index, allow_cpu=self._allow_cpu
        )
