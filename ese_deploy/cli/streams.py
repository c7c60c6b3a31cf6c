"""What a long job shows while it runs, and how signals stop it."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import msgspec

from ese_deploy.bulk.parts import StoppedError
from ese_deploy.bulk.progress import JobProgress, Report, silent_report
from ese_deploy.cli.console import progress_bars
from ese_deploy.errors import InputError

__all__ = ["check_progress", "job_progress", "stop_on_signals"]

_KINDS = ("auto", "bar", "log", "json", "none")
_LOG_SECONDS, _JSON_SECONDS = 30.0, 5.0
# What a shell adds to the number of a signal that ended a program.
_SIGNALED = 128
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))


def check_progress(kind: str) -> None:
    """Check the name of a kind of progress.

    Raises:
        InputError: it is unknown.
    """
    if kind not in _KINDS:
        raise InputError(f"Unknown progress '{kind}'. Choose one of: {', '.join(_KINDS)}.")


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM make the yielded function return True; the second one ends the process as usual.

    A :class:`StoppedError` gets the exit code of the signal: 130 or 143.
    """
    stopped = threading.Event()
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        received.append(number)
        signal.signal(number, before[number] or signal.SIG_DFL)

    for number in _SIGNALS:
        signal.signal(number, stop)
    try:
        yield stopped.is_set
    except StoppedError as error:
        if received:
            error.exit_code = _SIGNALED + received[0]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def job_progress(kind: str) -> Iterator[Report]:
    """Show the progress of a job on standard error.

    Args:
        kind: ``bar``, ``log``, ``json`` or ``none``; ``auto`` is a bar on a terminal and a log elsewhere.
    """
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "log"
    if kind == "bar":
        with progress_bars() as show:
            yield lambda progress: show(_title(progress), progress.rows, progress.total or 0)
    elif kind == "none":
        yield silent_report
    else:
        yield _Paced(_log, _LOG_SECONDS) if kind == "log" else _Paced(_json, _JSON_SECONDS)


class _Paced:
    """Shows a progress at most once in some seconds.

    Args:
        show: shows one.
        seconds: the least time between two.
    """

    def __init__(self, show: Report, seconds: float) -> None:
        self._show = show
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def __call__(self, progress: JobProgress) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._seconds
            self._show(progress)


def _title(progress: JobProgress) -> str:
    return {"read": "check the input", "join": "join the parts"}.get(progress.stage, "embed")


def _json(progress: JobProgress) -> None:
    print(msgspec.json.encode(progress).decode(), file=sys.stderr, flush=True)


def _log(progress: JobProgress) -> None:
    if progress.stage != "embed":
        print(f"{_title(progress)}: {progress.rows:,} rows", file=sys.stderr, flush=True)
        return
    of = "" if progress.total is None else f" of {progress.total:,} ({progress.rows / progress.total:.0%})"
    left = "" if progress.seconds_left is None else f", {_duration(progress.seconds_left)} left"
    bad = f", {progress.bad_rows:,} bad rows" if progress.bad_rows else ""
    cut = f", {progress.truncated:,} truncated" if progress.truncated else ""
    print(
        f"embed: {progress.rows:,}{of} rows, {progress.texts_per_second:,.0f} texts/s, "
        f"{progress.tokens_per_second:,.0f} tokens/s{left}{cut}{bad}",
        file=sys.stderr,
        flush=True,
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
