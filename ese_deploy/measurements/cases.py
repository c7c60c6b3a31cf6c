"""What can be measured of a target."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["DEFAULT_CASE", "Case", "Kind"]

Kind = Literal["latency", "throughput", "memory"]
"""What can be measured of a target on a machine."""


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        tokens: tokens of each text, special tokens included.
        threads: threads that compute; None for all that the process may use.
    """

    tokens: int = 32
    threads: int | None = None

    def __str__(self) -> str:
        threads = "all threads" if self.threads is None else f"{self.threads} threads"
        return f"{self.tokens} tokens, {threads}"


DEFAULT_CASE = Case()
