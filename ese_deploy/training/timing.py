"""How long a run still takes, and progress of long phases where nothing draws bars."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ese_deploy.system.progress import Progress

__all__ = ["FIRST_ESTIMATE", "TimeLeft", "duration", "with_log_lines"]

logger = logging.getLogger(__name__)

FIRST_ESTIMATE = 10
"""Steps after which the first estimate is made; the first ones are slow."""
_EVERY = 20.0


def duration(seconds: float) -> str:
    """A time in words: ``40 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@dataclass
class TimeLeft:
    """Estimates the rest of a run by the steps since its first one, which also warms up.

    Attributes:
        clock: gives the time in seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _first: tuple[int, float] | None = field(default=None, init=False)
    _last: tuple[int, float] = field(default=(0, 0.0), init=False)
    _steps: int = field(default=0, init=False)

    def step(self, number: int) -> bool:
        """Count a step; whether the first estimate is now possible."""
        now = number, self.clock()
        self._first = self._first or now
        self._last = now
        self._steps += 1
        return self._steps == FIRST_ESTIMATE

    def words(self, total: int) -> str:
        """Time of a step and time left, or an empty string before the tenth step and after the last."""
        if self._steps < FIRST_ESTIMATE or self._first is None or self._last[0] >= total:
            return ""
        each = (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])
        return f"{each:.2f} s a step, about {duration(each * (total - self._last[0]))} left"


def with_log_lines(progress: Progress, clock: Callable[[], float] = time.monotonic) -> Progress:
    """Progress that also logs a line every 20 seconds, with the time left."""
    begun: dict[str, float] = {}
    said: dict[str, float] = {}

    def report(stage: str, done: int, total: int) -> None:
        progress(stage, done, total)
        now = clock()
        start = begun.setdefault(stage, now)
        if now - said.setdefault(stage, now) >= _EVERY and 0 < done < total:
            said[stage] = now
            left = duration((now - start) / done * (total - done))
            logger.info("%s: %s of %s, about %s left", stage, f"{done:,}", f"{total:,}", left)

    return report
