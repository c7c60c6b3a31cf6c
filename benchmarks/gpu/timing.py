"""Timing one thing on a GPU, and the most that the GPU does in products of matrices."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Timing", "ceiling", "measure"]

_LEAST_RUNS = 5
_SIZES = {"cuda": (4096, 8192), "cpu": (256,)}


@dataclass(frozen=True)
class Timing:
    """Seconds of one run.

    Attributes:
        median: of all runs.
        spread: from the 10th to the 90th percentile, as a share of the median.
        runs: how many.
    """

    median: float
    spread: float
    runs: int


def measure(run: Callable[[], object], seconds: float) -> Timing:
    """Time a function that returns when its work is done.

    Args:
        run: the function.
        seconds: how long to go on, after a quarter of that to warm up.
    """
    _repeat(run, seconds / 4, least=2)
    times = _repeat(run, seconds, least=_LEAST_RUNS)
    deciles = statistics.quantiles(times, n=10)
    median = statistics.median(times)
    return Timing(median, (deciles[-1] - deciles[0]) / median, len(times))


def ceiling(device: str, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of the GPU's own product of square matrices of random numbers, the best of several sizes.

    For int8 these are whole numbers, summed in 32 bits.
    """
    best = 0.0
    for size in _SIZES[device]:
        multiply = _product(device, dtype, size)

        def run(multiply: Callable[[], object] = multiply) -> None:
            multiply()
            if device == "cuda":
                torch.cuda.synchronize()

        best = max(best, 2 * size**3 / measure(run, seconds).median)
    return best


def _product(device: str, dtype: torch.dtype, size: int) -> Callable[[], object]:
    if dtype == torch.int8:
        a, b = (torch.randint(-127, 128, (size, size), device=device, dtype=dtype) for _ in range(2))
        return lambda: torch._int_mm(a, b.t())  # transposed, as GPUs want it
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _repeat(run: Callable[[], object], seconds: float, least: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times
