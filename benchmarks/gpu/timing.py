"""What the device can do: peak GEMM, and copies within its memory."""

from collections.abc import Callable
from typing import Any

import torch

from ese_deploy.bench.peak import torch_peak
from ese_deploy.bench.timing import time_alone

__all__ = ["bandwidth", "peak", "synchronize"]

_MATRIX_SIZES = {"cuda": (4096, 8192), "cpu": (256,)}
_COPY_BYTES = {"cuda": 4 << 30, "cpu": 16 << 20}


def synchronize(device: str) -> None:
    """Wait until the device has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak(device: str, dtype: str, seconds: float) -> float:
    """Peak GEMM in operations per second."""
    return torch_peak(dtype, device, seconds, _MATRIX_SIZES[device])


def bandwidth(device: str, seconds: float) -> float:
    """Bytes read and written per second by a copy within the device's memory."""
    size = _COPY_BYTES[device]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = time_alone(_several(lambda: target.copy_(source), device, times=5), seconds)
    return 5 * 2 * size / min(timing.seconds)


def _several(call: Callable[[], Any], device: str, times: int) -> Callable[[], None]:
    """Several calls with one wait at the end, so that the wait does not count."""

    def run() -> None:
        for _ in range(times):
            call()
        synchronize(device)

    return run
