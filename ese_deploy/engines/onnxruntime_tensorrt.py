"""ONNX Runtime's TensorRT provider. It compiles the graph at load and leaves to CUDA what it cannot compile."""

import ctypes
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from ese_deploy.engines.base import EngineInput
from ese_deploy.engines.cuda import find_gpu
from ese_deploy.engines.onnxruntime_cpu import import_onnxruntime
from ese_deploy.engines.onnxruntime_cuda import cuda_options
from ese_deploy.engines.onnxruntime_gpu import GpuSession, load_session, require_provider
from ese_deploy.errors import EngineError
from ese_deploy.system.cache import cache_folder

__all__ = ["OnnxRuntimeTensorRt", "require_tensorrt", "tensorrt_options"]

_PROVIDER, _CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
# The major version that the provider is linked with. No other version works.
_MAJOR = 10
_BATCH, _TOKENS, _BEST_TOKENS = 512, 65536, 16384


def tensorrt_options(
    index: int, cache: Path, plan: str, inputs: Sequence[str], longest: int, quantized: bool = False
) -> dict[str, str]:
    """Options of the TensorRT provider.

    One optimization profile covers all lengths, so that a plan is compiled once. The engine ``tensorrt`` has one
    profile for each range of lengths.

    Args:
        index: the GPU's number.
        cache: folder of the timing cache, with one folder of plans for each graph.
        plan: name of that folder. The provider itself distinguishes plans by names and shapes, not by weights.
        inputs: names of the graph's inputs.
        longest: the longest row in tokens.
        quantized: whether the graph is quantized. For other graphs TensorRT would require ranges of its own.
    """
    most, best = _rows(_TOKENS, longest), _rows(_BEST_TOKENS, longest)

    def shapes(rows: int, length: int) -> str:
        return ",".join(f"{name}:{rows}x{length}" for name in inputs)

    return {
        "device_id": str(index),
        # The graph says which values are fp16. Without this the provider computes all of them in fp32.
        "trt_fp16_enable": "1",
        "trt_bf16_enable": "1",
        "trt_int8_enable": str(int(quantized)),
        "trt_layer_norm_fp32_fallback": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache / plan),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": shapes(1, 1),
        "trt_profile_opt_shapes": shapes(best, longest),
        "trt_profile_max_shapes": shapes(most, longest),
    }


def _rows(tokens: int, longest: int) -> int:
    return max(1, min(_BATCH, tokens // longest))


def require_tensorrt(candidates: Iterable[Path] | None = None) -> None:
    """Load the TensorRT library that the provider is linked with.

    Args:
        candidates: folders to look in. Default: the folder of the Python package, then those of the system.

    Raises:
        EngineError: the library is missing, or only another version is installed.
    """
    name = f"libnvinfer.so.{_MAJOR}"
    folders = list(_packaged() if candidates is None else candidates)
    for place in [*(str(folder / name) for folder in folders), *([name] if candidates is None else [])]:
        try:
            ctypes.CDLL(place, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return
    others = sorted(path.name for folder in folders for path in folder.glob("libnvinfer.so.*"))
    found = f" (found {', '.join(others)})" if others else ""
    raise EngineError(
        f"ONNX Runtime's {_PROVIDER} needs TensorRT {_MAJOR}, but {name} is missing{found}. "
        f"Run: pip install 'tensorrt-cu13=={_MAJOR}.*'"
    )


def _packaged() -> list[Path]:
    spec = importlib.util.find_spec("tensorrt_libs")
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


class OnnxRuntimeTensorRt:
    """Runs graphs on a GPU with ONNX Runtime and TensorRT.

    Args:
        index: the GPU's number among the GPUs that the process sees.

    Raises:
        EngineError: there is no GPU, its driver is too old, or a library is missing or of another version.
    """

    name = "onnxruntime-tensorrt"

    def __init__(self, index: int = 0) -> None:
        self._onnxruntime = import_onnxruntime("gpu")
        self._gpu = find_gpu(index)
        require_provider(self._onnxruntime, _PROVIDER)
        require_tensorrt()
        self.device = self._gpu.name
        self.versions = {"onnxruntime": str(self._onnxruntime.__version__)}

    def load(self, source: EngineInput, threads: int) -> GpuSession:
        """Load a graph, and compile it unless the cache has it; see :meth:`ese_deploy.engines.base.Engine.load`."""
        cache = cache_folder() / "onnxruntime-tensorrt"
        plan = source.digest[:32]
        (cache / plan).mkdir(parents=True, exist_ok=True)
        quantized = b"QuantizeLinear" in source.graph
        options = tensorrt_options(self._gpu.index, cache, plan, source.inputs, source.max_length, quantized)
        # The graph is passed as bytes, so the provider has to be told where the weights are.
        options["trt_onnx_model_folder_path"] = str(source.weights.parent)
        providers = [(_PROVIDER, options), (_CUDA, cuda_options(self._gpu.index, tf32=False))]
        # The profile is made for the longest rows, so it takes fewer rows than a batch of short ones has.
        most_rows = _rows(_TOKENS, source.max_length)
        return load_session(self._onnxruntime, providers, source, threads, index=self._gpu.index, most_rows=most_rows)
