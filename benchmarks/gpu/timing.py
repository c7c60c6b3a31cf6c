"""Timing of one function, and what the device itself can do."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Timing", "bandwidth", "measure", "peak", "percentile", "synchronize"]

_MATRIX_SIZES = {"cuda": (4096, 8192), "cpu": (256,)}
_COPY_BYTES = {"cuda": 4 << 30, "cpu": 16 << 20}


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        times: of each call, in order.
    """

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median time."""
        return statistics.median(self.times)

    @property
    def spread(self) -> float:
        """From the 10th to the 90th percentile, as a share of the median."""
        return (percentile(self.times, 90) - percentile(self.times, 10)) / self.median


def measure(call: Callable[[], object], seconds: float, least: int = 3) -> Timing:
    """Time a function that returns when its work is done.

    Args:
        call: the function.
        seconds: how long to repeat it; warm-up takes a quarter of that on top, and at least two calls.
        least: fewest calls timed.
    """
    _repeat(call, seconds / 4, 2)
    return Timing(tuple(_repeat(call, seconds, least)))


def percentile(values: tuple[float, ...] | list[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def synchronize(device: str) -> None:
    """Wait until the device has done all its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak(device: str, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of the device's own product of square matrices of random numbers, the best of several sizes.

    Integers of 8 bits are summed in 32 bits.
    """
    best = 0.0
    for size in _MATRIX_SIZES[device]:
        multiply = _product(device, dtype, size)
        timing = measure(_several(multiply, device, times=10), seconds)
        best = max(best, 10 * 2 * size**3 / min(timing.times))
    return best


def bandwidth(device: str, seconds: float) -> float:
    """Bytes read and written per second by a copy within the device's memory."""
    size = _COPY_BYTES[device]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = measure(_several(lambda: target.copy_(source), device, times=5), seconds)
    return 5 * 2 * size / min(timing.times)


def _several(call: Callable[[], Any], device: str, times: int) -> Callable[[], None]:
    """Several calls with one wait at the end, so that the wait does not count."""

    def run() -> None:
        for _ in range(times):
            call()
        synchronize(device)

    return run


def _product(device: str, dtype: torch.dtype, size: int) -> Callable[[], object]:
    if dtype == torch.int8:
        a, b = (torch.randint(-127, 128, (size, size), device=device, dtype=dtype) for _ in range(2))
        return lambda: torch._int_mm(a, b.t())  # GPUs take the second factor transposed only
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _repeat(call: Callable[[], object], seconds: float, least: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times
