"""The number of threads that this process may use."""

import math
import os
from numbers import Integral
from pathlib import Path

from ese_deploy.errors import InputError

__all__ = ["available_threads", "check_threads"]

# Each thread of an engine takes a stack and a start. No machine of today has more processors.
_MOST = 512


def available_threads(root: Path = Path("/")) -> int:
    """Count the processors that this process may use, at least 1.

    This is the smaller of the CPU affinity and the quota of the control group (version 2 or 1): a container limited to
    two cores on a machine with 64 gets 2.

    Args:
        root: the folder that contains ``proc`` and ``sys``.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def check_threads(threads: int | None) -> None:
    """Check a number of threads; None stands for every core.

    Raises:
        InputError: it is not an integer from 1 to 512.
    """
    if threads is None:
        return
    if not isinstance(threads, Integral):
        raise InputError(f"`threads` must be an integer, got {threads!r}.")
    if threads < 1:
        raise InputError(f"`threads` must be at least 1, got {threads}.")
    if threads > _MOST:
        raise InputError(f"`threads` must be at most {_MOST}, got {threads}.")


def _quota(root: Path) -> float | None:
    """The smallest quota of this process's control group and its parents, in processors."""
    quotas = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
            read = _quota_v2
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup/cpu"
            read = _quota_v1
        else:
            continue
        folder = mount / group.lstrip("/")
        while True:
            quota = read(folder)
            if quota is not None:
                quotas.append(quota)
            if folder == mount:
                break
            folder = folder.parent
    return min(quotas, default=None)


def _quota_v2(folder: Path) -> float | None:
    for line in _lines(folder / "cpu.max"):
        limit, period = line.split()
        return None if limit == "max" else int(limit) / int(period)
    return None


def _quota_v1(folder: Path) -> float | None:
    limit = _lines(folder / "cpu.cfs_quota_us")
    period = _lines(folder / "cpu.cfs_period_us")
    if not limit or not period or int(limit[0]) <= 0:
        return None
    return int(limit[0]) / int(period[0])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
