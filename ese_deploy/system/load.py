"""How much of the processor others use while something is measured."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Load", "busy_cores", "read_load"]

# Interrupts, the terminal and short-lived processes use this much of a quiet machine.
_QUIET = 0.3
_IDLE = (3, 4)  # the columns idle and iowait


@dataclass(frozen=True)
class Load:
    """Processor time at one moment.

    Attributes:
        wall: seconds of a monotonic clock.
        used: seconds that the processors this process may use have worked since the start of the system.
        own: seconds of this process and of its children that have ended.
        cores: number of those processors.
    """

    wall: float
    used: float
    own: float
    cores: int


def read_load(root: Path = Path("/")) -> Load | None:
    """The load at this moment; None where the system does not report it (it does on Linux)."""
    try:
        allowed = {f"cpu{index}" for index in os.sched_getaffinity(0)}
        lines = (root / "proc/stat").read_text("ascii").splitlines()
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    rows = [line.split() for line in lines if line.split(" ", 1)[0] in allowed]
    # The first eight columns are disjoint; those of guests are contained in them.
    used = sum(int(value) for _, *row in rows for index, value in enumerate(row[:8]) if index not in _IDLE)
    own = os.times()
    return Load(
        time.monotonic(), used / ticks, own.user + own.system + own.children_user + own.children_system, len(rows)
    )


def busy_cores(start: Load | None, end: Load | None, threads: int) -> float:
    """Processors that others used between two moments, if they took them from ``threads`` threads of this process.

    Returns:
        0 if every thread could have had a processor to itself, or if the system does not report it.
    """
    if start is None or end is None or end.wall <= start.wall:
        return 0.0
    others = ((end.used - start.used) - (end.own - start.own)) / (end.wall - start.wall)
    return round(others, 2) if others > _QUIET and others + threads > end.cores + _QUIET else 0.0
