"""How long work tells its caller where it stands."""

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, how much of it is done, and how much it is in all."""


def silent(stage: str, done: int, total: int) -> None:
    """Say nothing."""
