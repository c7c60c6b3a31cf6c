"""Runs a command to its end, and pauses it while a file exists."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Child", "module", "run_child", "terminable"]

_ROOT = Path(__file__).parents[2]
_POLL = 0.5


@dataclass(frozen=True)
class Child:
    """How a command ended.

    Attributes:
        code: its exit code; minus the signal's number if it was killed.
        minutes: wall time without pauses.
        cpu_minutes: CPU time of all cores.
    """

    code: int
    minutes: float
    cpu_minutes: float


def module(name: str, *arguments: str | Path) -> list[str]:
    """The command line of a module of the checkout."""
    return [sys.executable, "-m", name, *map(str, arguments)]


def run_child(command: Sequence[str], log: Path, pause: Path | None) -> Child:
    """Run a command from the checkout's root.

    Args:
        command: the command line.
        log: its output is appended there.
        pause: while this file exists, the command and its children are stopped.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            worked = _watch(process, pause)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Child(process.returncode, round(worked / 60, 3), round(cpu / 60, 3))


def _watch(process: subprocess.Popen[bytes], pause: Path | None) -> float:
    """Wall seconds that the process was not paused."""
    worked, last, stopped = 0.0, time.monotonic(), False
    while process.poll() is None:
        wanted = pause is not None and pause.exists()
        if wanted != stopped:
            os.killpg(process.pid, signal.SIGSTOP if wanted else signal.SIGCONT)
            stopped = wanted
        time.sleep(_POLL)
        now = time.monotonic()
        worked += 0.0 if stopped else now - last
        last = now
    return worked


@contextmanager
def terminable() -> Iterator[None]:
    """Treat SIGTERM like an interrupt from the keyboard, so that the running command ends too."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
