"""The parts of the CUDA runtime that engines need: a description of the GPU, and memory on it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import EngineError
from ese_deploy.system.install import install_hint

__all__ = ["CudaMemory", "Gpu", "OutOfMemoryError", "find_gpu"]


class OutOfMemoryError(EngineError):
    """The GPU has not enough free memory."""


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        index: its number among the GPUs that the process sees.
        name: such as ``NVIDIA H200``.
        capability: compute capability, such as (9, 0).
        memory_bytes: total memory.
        driver: CUDA version that the driver supports, such as ``13.0``.
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int
    driver: str

    @property
    def architecture(self) -> str:
        """Such as ``sm_90``."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


def find_gpu(index: int = 0, runtime: Any = None) -> Gpu:
    """Describe a GPU.

    Args:
        index: its number among the GPUs that the process sees.
        runtime: replaces ``cuda.bindings.runtime`` in tests.

    Raises:
        EngineError: the GPU, the driver or the package is missing, or the driver is too old.
    """
    runtime = runtime or _import_runtime()
    driver, needed = (_value(call()) for call in (runtime.cudaDriverGetVersion, runtime.cudaRuntimeGetVersion))
    if driver == 0:
        raise EngineError(
            "No NVIDIA driver was found. Install the driver, or choose the engine 'onnxruntime', which runs on the CPU."
        )
    error, count = runtime.cudaGetDeviceCount()
    if int(error) == int(runtime.cudaError_t.cudaErrorInsufficientDriver):
        raise EngineError(
            f"The NVIDIA driver supports CUDA {_version(driver)}, but CUDA {_version(needed)} is needed. "
            "Update the driver."
        )
    if int(error) != 0 or not count:
        raise EngineError(
            f"The NVIDIA driver shows no GPU ({_name(runtime, error)}). Check nvidia-smi and CUDA_VISIBLE_DEVICES, or "
            "choose the engine 'onnxruntime', which runs on the CPU."
        )
    if not 0 <= index < count:
        raise EngineError(f"There is no GPU {index}. This process sees {count}, numbered from 0.")
    properties = _value(runtime.cudaGetDeviceProperties(index))
    return Gpu(
        index=index,
        name=bytes(properties.name).split(b"\0", 1)[0].decode(),
        capability=(properties.major, properties.minor),
        memory_bytes=int(properties.totalGlobalMem),
        driver=_version(driver),
    )


class CudaMemory:
    """Buffers and a stream on one GPU. Only one thread may use them at a time.

    Args:
        index: the GPU's number.
        runtime: replaces ``cuda.bindings.runtime`` in tests.

    Attributes:
        stream: handle of the CUDA stream on which copies run.
    """

    def __init__(self, index: int, runtime: Any = None) -> None:
        self._runtime = runtime or _import_runtime()
        self._index = index
        self._buffers: dict[str, tuple[int, int]] = {}
        self.use()
        self.stream: int = int(_value(self._runtime.cudaStreamCreate()))

    def use(self) -> None:
        """Select the GPU for the calling thread."""
        self._check(self._runtime.cudaSetDevice(self._index))

    def buffer(self, name: str, size: int) -> int:
        """Address of a buffer of at least ``size`` bytes. The buffer of that name is reused if it is large enough.

        Raises:
            OutOfMemoryError: the GPU has not enough free memory.
        """
        address, capacity = self._buffers.get(name, (0, 0))
        if capacity < size:
            if address:
                del self._buffers[name]
                self._check(self._runtime.cudaFree(address))
            error, address = self._runtime.cudaMalloc(size)
            self._check((error,))
            self._buffers[name] = (int(address), size)
        return self._buffers[name][0]

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of an array to the GPU. The array must stay alive until :meth:`wait`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._check(self._runtime.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, self.stream))

    def copy_out(self, array: NDArray[np.float32], address: int) -> None:
        """Queue a copy from the GPU into an array, complete after :meth:`wait`."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._check(self._runtime.cudaMemcpyAsync(array.ctypes.data, address, array.nbytes, kind, self.stream))

    def wait(self) -> None:
        """Wait until everything in the queue is done.

        Raises:
            EngineError: an operation in the queue failed.
        """
        self._check(self._runtime.cudaStreamSynchronize(self.stream))

    def free_bytes(self) -> int:
        """Free memory of the GPU."""
        error, free, _ = self._runtime.cudaMemGetInfo()
        self._check((error,))
        return int(free)

    def release(self) -> None:
        """Free all buffers."""
        for address, _ in self._buffers.values():
            self._runtime.cudaFree(address)
        self._buffers.clear()

    def close(self) -> None:
        """Free buffers and stream. Further calls do nothing."""
        self.release()
        if self.stream:
            self._runtime.cudaStreamDestroy(self.stream)
            self.stream = 0

    def _check(self, result: tuple[Any, ...]) -> None:
        error = result[0]
        if int(error) == int(self._runtime.cudaError_t.cudaErrorMemoryAllocation):
            raise OutOfMemoryError("The GPU is out of memory.")
        if int(error) != 0:
            raise EngineError(f"CUDA failed: {_name(self._runtime, error)}. Check nvidia-smi.")


def _import_runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(f"GPU engines need cuda-bindings. {install_hint('gpu')}") from error
    return runtime


def _value(result: tuple[Any, ...]) -> Any:
    error, value = result
    if int(error) != 0:
        raise EngineError(f"CUDA failed with error {int(error)}. Check nvidia-smi.")
    return value


def _name(runtime: Any, error: Any) -> str:
    return bytes(runtime.cudaGetErrorString(error)[1]).decode()


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
