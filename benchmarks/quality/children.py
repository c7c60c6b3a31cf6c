"""Running a command to its end, standing still while somebody asks for quiet."""

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
        code: its exit code; minus the signal's number where it was killed.
        minutes: by the clock, pauses not counted.
        cpu_minutes: over all cores.
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
        log: its output is added there.
        pause: while this file is there, the command and all that it started are stopped.
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
    """Seconds by the clock that the process was allowed to work."""
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
    """Let a request to terminate end the command under way too, as an interrupt from the keyboard does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
