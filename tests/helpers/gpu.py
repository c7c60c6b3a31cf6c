"""A stand-in for CUDA's runtime, and batches of random token ids."""

import ctypes
from types import SimpleNamespace

import numpy as np


def fake_runtime(driver: int = 13000, count: int = 1, error: int = 0, free: int = 1 << 20) -> SimpleNamespace:
    """As much of ``cuda.bindings.runtime`` as is used, over the memory of this process."""
    errors = SimpleNamespace(cudaErrorInsufficientDriver=35, cudaErrorMemoryAllocation=2)
    properties = SimpleNamespace(name=b"Some GPU\0\0", major=9, minor=0, totalGlobalMem=1 << 34)
    held: dict[int, np.ndarray] = {}

    def malloc(size: int) -> tuple[int, int]:
        if sum(map(len, held.values())) + size > free:
            return 2, 0
        block = np.empty(size, np.uint8)
        held[block.ctypes.data] = block
        return 0, block.ctypes.data

    def release(address: int) -> tuple[int]:
        del held[address]
        return (0,)

    def copy(to: int, source: int, size: int, kind: str, stream: int) -> tuple[int]:
        ctypes.memmove(to, source, size)
        return (0,)

    return SimpleNamespace(
        cudaError_t=errors,
        cudaMemcpyKind=SimpleNamespace(cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out"),
        cudaDriverGetVersion=lambda: (0, driver),
        cudaRuntimeGetVersion=lambda: (0, 13000),
        cudaGetDeviceCount=lambda: (error, count),
        cudaGetErrorString=lambda error: (0, b"no CUDA-capable device is detected"),
        cudaGetDeviceProperties=lambda index: (0, properties),
        cudaSetDevice=lambda index: (0,),
        cudaStreamCreate=lambda: (0, 7),
        cudaStreamSynchronize=lambda stream: (0,),
        cudaStreamDestroy=lambda stream: (0,),
        cudaMalloc=malloc,
        cudaFree=release,
        cudaMemcpyAsync=copy,
        held=held,
    )


def batch_of(shape: tuple[int, int], names: list[str]) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(5).integers(5, 600, shape)
    arrays = {"input_ids": ids, "attention_mask": np.ones(shape, np.int64), "token_type_ids": np.zeros(shape, np.int64)}
    return {name: arrays[name] for name in names}
