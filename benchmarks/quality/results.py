"""All results of a sweep as one file."""

from collections.abc import Iterable
from typing import Any

import msgspec

from benchmarks.quality.plan import chosen_rate, rates_tried, runs_of
from benchmarks.quality.protocol import Protocol, Row
from benchmarks.quality.records import Figures, Record, read_records
from benchmarks.quality.sweep import TESTS, Sweep
from ese_deploy.system.machine import Machine

__all__ = ["Results", "RowResult", "RunResult", "collect"]

_DIGITS = 5


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """A run.

    Attributes:
        label: row, rate and seed.
        seed: None if nothing was drawn.
        minutes: wall time of training.
        cpu_minutes: CPU time of training, all cores.
        failed: the reason, or empty.
        dev: figures on the development set.
        test: figures on the test sets; empty for all but finalists.
    """

    label: str
    seed: int | None
    minutes: float | None
    cpu_minutes: float | None
    failed: str
    dev: Figures
    test: Figures


class RowResult(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the protocol.

    Attributes:
        row: the row of the protocol.
        rate: the chosen learning rate.
        rates: the score of each rate.
        runs: one for each seed.
    """

    row: Row
    rate: float | None
    rates: dict[str, float]
    runs: list[RunResult]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign.

    Attributes:
        schema_version: 1.
        kind: ``quality``.
        protocol: what was compared.
        machines: where runs were done.
        versions: of the libraries, of the last run.
        rows: those with at least one run.
    """

    schema_version: int = 1
    kind: str = "quality"
    protocol: Protocol
    machines: list[Machine]
    versions: dict[str, str]
    rows: list[RowResult]

    def named(self, name: str) -> RowResult | None:
        """A row by its name."""
        return next((row for row in self.rows if row.row.name == name), None)


def collect(sweep: Sweep) -> Results:
    """The records that the present protocol asks for; records of other settings are ignored."""
    records, tests = sweep.records(), read_records(sweep.out / TESTS)
    rows = []
    for row in sweep.protocol.rows:
        whole = sweep.protocol.whole(row)
        found = [run for run in runs_of(sweep.plan, whole, records) if run.key in records]
        # A row can have scores of rates before one is chosen.
        rates = rates_tried(sweep.plan, whole, records) if row.rates else {}
        if not found and not rates:
            continue
        runs = [_run(records[run.key], run.seed, tests.get(run.key)) for run in found]
        shown = {f"{rate:g}": round(score, 3) for rate, score in sorted(rates.items())}
        rate = chosen_rate(sweep.plan, whole, records)
        rows.append(RowResult(row=row, rate=rate, rates=shown, runs=runs))
    return Results(
        protocol=sweep.protocol,
        machines=_distinct(record.machine for record in records.values()),
        versions=max(records.values(), key=lambda record: record.date).versions if records else {},
        rows=rows,
    )


def _run(record: Record, seed: int | None, test: Record | None) -> RunResult:
    return RunResult(
        label=record.label,
        seed=seed,
        minutes=record.minutes,
        cpu_minutes=record.cpu_minutes,
        failed=record.failed,
        dev=_rounded(record.figures),
        test=_rounded(test.figures) if test else {},
    )


def _rounded(figures: Figures) -> Figures:
    return {name: {cell: round(value, _DIGITS) for cell, value in cells.items()} for name, cells in figures.items()}


def _distinct(machines: Iterable[Machine]) -> list[Any]:
    return list({machine.key: machine for machine in machines}.values())
