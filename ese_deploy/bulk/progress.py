"""How far a job is: counts, rates, time left and cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from ese_deploy.bulk.parts import PartRecord

__all__ = ["JobProgress", "Meter", "Report", "silent_report"]


class JobProgress(msgspec.Struct, frozen=True):
    """A moment of a job. Rates are those since this run began, without the parts that were there.

    Attributes:
        stage: ``read``, ``embed`` or ``join``.
        rows: rows that are done, those of earlier runs included.
        total: rows of the input; None for a stream.
        texts_per_second: 0 before the first window.
        tokens_per_second: as above.
        seconds_left: None while unknown.
        truncated: texts that were truncated, in complete parts.
        bad_rows: rows without a text, in complete parts.
        parts: complete parts.
    """

    stage: str
    rows: int
    total: int | None
    texts_per_second: float = 0.0
    tokens_per_second: float = 0.0
    seconds_left: float | None = None
    truncated: int = 0
    bad_rows: int = 0
    parts: int = 0


Report = Callable[[JobProgress], object]


def silent_report(progress: JobProgress) -> None:
    """Report nothing."""


@dataclass
class Meter:
    """Counts what a run does, and reports it.

    Attributes:
        report: called at every change.
        total: rows of the input; None for a stream.
        before: rows of parts of earlier runs.
    """

    report: Report
    total: int | None
    before: int = 0
    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    bad_rows: int = 0
    parts: int = 0
    began: float = field(default_factory=time.monotonic)

    def add_part(self, record: PartRecord) -> None:
        """Count a complete part."""
        self.truncated += record.truncated
        self.bad_rows += len(record.skipped)
        self.parts += 1
        self.advance(0, 0)

    def advance(self, rows: int, tokens: int) -> None:
        """Count the rows of a window."""
        self.rows += rows
        self.tokens += tokens
        rate = self.rows / max(time.monotonic() - self.began, 1e-6)
        done = self.before + self.rows
        left = None if self.total is None or not self.rows else max(0, self.total - done) / rate
        self.report(
            JobProgress(
                stage="embed",
                rows=done,
                total=self.total,
                texts_per_second=round(rate, 1),
                tokens_per_second=round(self.tokens / max(time.monotonic() - self.began, 1e-6), 1),
                seconds_left=None if left is None else round(left, 1),
                truncated=self.truncated,
                bad_rows=self.bad_rows,
                parts=self.parts,
            )
        )
