"""Reporting the progress of long work."""

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the amount done and the total."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
