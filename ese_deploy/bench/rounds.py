"""Rounds that go A B C, A B C until the medians are stable, so that a machine that drifts hurts all alike."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Stop", "Turn", "interleave", "uncertainty"]

Turn = Callable[[], list[float]]
"""Takes its turn once and returns what it timed, in seconds."""

# Threads that still spin after one turn must not slow the next.
_PAUSE = 0.02


@dataclass(frozen=True)
class Stop:
    """When rounds end: as soon as every median is stable, at the latest at the cap.

    Attributes:
        least: rounds at least.
        most: rounds at most.
        seconds: no new round begins later than this, once ``least`` rounds are done.
        precision: medians are stable when the :func:`uncertainty` of each is at most this.
    """

    least: int
    most: int
    seconds: float = math.inf
    precision: float = 0.02


def interleave(
    turns: Sequence[Turn], stop: Stop, advance: Callable[[float], None] = lambda _: None, warm_up: int = 1
) -> list[list[list[float]]]:
    """Let all take turns.

    Args:
        turns: who takes part.
        stop: when rounds end.
        advance: called after each turn with how much of the cap is used, from 0 to 1.
        warm_up: turns of each whose times are thrown away.

    Returns:
        For each of ``turns`` and each round what the turn timed.
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
    return timed


def uncertainty(samples: Sequence[float]) -> float:
    """Half the width of a 95% interval around the median, as a share of it.

    It is the notch of a box plot, 1.57 x interquartile range / sqrt(n) (McGill, Tukey and Larsen, 1978): two medians
    whose notches do not overlap differ.

    Returns:
        Infinity for fewer than three samples.
    """
    if len(samples) < 3:
        return math.inf
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return 1.57 * (high - low) / math.sqrt(len(samples)) / middle


def _stable(timed: Sequence[Sequence[Sequence[float]]], precision: float) -> bool:
    return all(
        uncertainty([statistics.median(times) for times in rounds if times]) <= precision for rounds in timed if rounds
    )
