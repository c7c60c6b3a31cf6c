"""The timing loop: contenders take turns (A B C, A B C, ...), so that a machine that slows down affects all alike."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

__all__ = ["NOISY", "Ratio", "StopRule", "Timing", "Turn", "interleave", "ratio", "repeat", "time_alone", "uncertainty"]

NOISY = 0.05
"""A median less certain than this is marked: two runs may then differ by 10% although nothing changed."""

Turn = Callable[[], list[float]]
"""Runs a contender once and returns the seconds of each call that it timed."""

# Threads that still spin after one turn must not slow the next one.
_PAUSE = 0.02


@dataclass(frozen=True)
class StopRule:
    """When rounds end.

    Attributes:
        least: minimum number of rounds.
        most: maximum number of rounds.
        seconds: no round starts later than this once ``least`` rounds are done.
        precision: rounds end as soon as the :func:`uncertainty` of every median is at most this.
    """

    least: int
    most: int
    seconds: float = math.inf
    precision: float = 0.02

    def __str__(self) -> str:
        return (
            f"at least {self.least} rounds, then until every median is known within {self.precision:.0%} "
            f"(1.57 x interquartile range / sqrt(rounds)), at most {self.most} rounds, "
            f"none started after {self.seconds:.0f} s"
        )


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the timing loop measured of one contender.

    Attributes:
        seconds: median seconds of a call, one for each round.
        calls: timed calls of all rounds.
        percentiles: p50, p95 and p99 in seconds over the calls of all rounds.
    """

    seconds: list[float]
    calls: int
    percentiles: dict[str, float] = {}

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float]]) -> "Timing":
        """Summarize the seconds of each call in each round."""
        import numpy as np

        calls = [seconds for times in rounds for seconds in times]
        p50, p95, p99 = np.percentile(calls, [50, 95, 99]).tolist()
        return cls([statistics.median(times) for times in rounds], len(calls), {"p50": p50, "p95": p95, "p99": p99})

    @property
    def median(self) -> float:
        """Median seconds over the rounds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance from the 10th to the 90th percentile of the rounds, as a share of the median."""
        deciles = statistics.quantiles(self.seconds, n=10)
        return (deciles[-1] - deciles[0]) / self.median

    @property
    def noisy(self) -> bool:
        """Whether the median is less certain than :data:`NOISY`."""
        return uncertainty(self.seconds) > NOISY

    def rate(self, amount: float) -> float:
        """``amount`` per second, at the median."""
        return amount / self.median


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one contender is as another.

    Attributes:
        value: median over rounds.
        low: lower quartile.
        high: upper quartile.
        noisy: whether the median is less certain than :data:`NOISY`.
    """

    value: float
    low: float
    high: float
    noisy: bool


def ratio(fast: Timing, slow: Timing) -> Ratio:
    """How many times as fast ``fast`` is as ``slow``, taken round by round, so that a drift of both cancels."""
    values = [b / a for a, b in zip(fast.seconds, slow.seconds, strict=False)]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Ratio(middle, low, high, uncertainty(values) > NOISY)


def interleave(
    turns: Sequence[Turn], stop: StopRule, advance: Callable[[float], None] = lambda _: None, warm_up: int = 1
) -> list[Timing]:
    """Time contenders in interleaved rounds.

    Args:
        turns: the contenders.
        stop: when rounds end.
        advance: called after each turn with how much of the limit is used, from 0 to 1.
        warm_up: turns of each contender before the first round; their times are discarded.
    """
    for turn in turns:
        for _ in range(warm_up):
            turn()
    timed: list[list[list[float]]] = [[] for _ in turns]
    start = time.perf_counter()
    for number in range(1, stop.most + 1):
        for position, turn in enumerate(turns):
            time.sleep(_PAUSE)
            timed[position].append(turn())
            rounds = (number - 1 + (position + 1) / len(turns)) / stop.most
            advance(min(1.0, max(rounds, (time.perf_counter() - start) / stop.seconds)))
        if number >= stop.least and (time.perf_counter() - start > stop.seconds or _stable(timed, stop.precision)):
            break
    advance(1.0)
    return [Timing.of(rounds) for rounds in timed]


def repeat(call: Callable[[], object], seconds: float = 0.0, least: int = 1) -> list[float]:
    """Call a function at least ``least`` times and for at least ``seconds``; returns the seconds of each call."""
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def time_alone(call: Callable[[], object], seconds: float, least: int = 5) -> Timing:
    """Time one function that has no contender; each call is a round.

    Args:
        call: returns when its work is done.
        seconds: how long to measure, after a quarter of that to warm up.
        least: minimum number of timed calls.
    """
    repeat(call, seconds / 4, least=2)
    return Timing.of([[taken] for taken in repeat(call, seconds, least)])


def uncertainty(samples: Sequence[float]) -> float:
    """Half the width of a 95% interval around the median, as a share of it; infinity for fewer than three samples.

    It is the notch of a box plot, 1.57 x interquartile range / sqrt(n) (McGill, Tukey and Larsen, 1978): two medians
    whose notches do not overlap differ.
    """
    if len(samples) < 3:
        return math.inf
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return 1.57 * (high - low) / math.sqrt(len(samples)) / middle


def _stable(timed: Sequence[Sequence[Sequence[float]]], precision: float) -> bool:
    return all(
        uncertainty([statistics.median(times) for times in rounds if times]) <= precision for rounds in timed if rounds
    )
