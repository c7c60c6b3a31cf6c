"""Ctrl-C and SIGTERM end a command with one line, after it has removed its unfinished files."""

import signal
import sys
import threading
from types import FrameType

__all__ = ["INTERRUPTED", "TERMINATED", "handle_signals", "interrupted_by", "report_interruption"]

# What a shell reports of a program that the signal ended.
INTERRUPTED, TERMINATED = 130, 143

_received: list[int] = []


def handle_signals() -> None:
    """Remember Ctrl-C and SIGTERM, and raise an exception for them that no command catches."""
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)


def interrupted_by() -> int | None:
    """The exit code of the first signal, None without one.

    Libraries turn the exception of a signal into errors of their own: torch.export does while it traces.
    """
    return _received[0] if _received else None


def report_interruption(code: int) -> int:
    """Print the line of an exit code, and return the code."""
    word = "terminated" if code == TERMINATED else "interrupted"
    print(f"{word}; nothing was changed", file=sys.stderr)
    return code


def _interrupt(_: int, frame: FrameType | None) -> None:
    _received.append(INTERRUPTED)
    raise KeyboardInterrupt


def _terminate(_: int, frame: FrameType | None) -> None:
    _received.append(TERMINATED)
    raise SystemExit(TERMINATED)
