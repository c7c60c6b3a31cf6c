"""Derives the next run from the protocol and the records."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.quality.protocol import PROJECTED, STAGES, Protocol, Row
from benchmarks.quality.records import Record, criterion
from ese_deploy.texts.reader import stem_of

__all__ = [
    "Plan",
    "Run",
    "chosen_rate",
    "criterion_of",
    "dev_name",
    "planned",
    "rates_tried",
    "rates_wanted",
    "runs_of",
    "seeds_of",
]

_MOST_RATES = 7


@dataclass(frozen=True)
class Run:
    """One call of training, and what is measured of it.

    Attributes:
        row: the row, whole.
        rate: the learning rate; None where nothing is trained.
        seed: of all that is drawn; None where nothing is drawn.
        source: the run whose model this one takes; None: the protocol's model.
        settings: what decides the outcome.
        key: ten hexadecimal digits of a hash of the settings.
    """

    row: Row
    rate: float | None
    seed: int | None
    source: "Run | None"
    settings: Mapping[str, Any]
    key: str

    @property
    def label(self) -> str:
        """For file names and messages."""
        parts = [self.row.name.replace(" ", "-").replace(",", "")]
        parts += [f"{self.rate:.0e}"] if self.rate is not None else []
        parts += [f"seed{self.seed}"] if self.seed is not None else []
        return ".".join(parts)


@dataclass(frozen=True)
class Plan:
    """What runs are made from.

    Attributes:
        protocol: the protocol.
        hash_of: gives the hash of a set of training data, or of the development set under ``dev``.
    """

    protocol: Protocol
    hash_of: Callable[[str], str]


def planned(plan: Plan, records: Mapping[str, Record]) -> Iterator[Run]:
    """All runs that the records ask for, in order: rates of every finalist, then seeds, ablation, ideas."""
    rows = [plan.protocol.whole(row) for row in plan.protocol.rows]
    for row in rows:
        if row.rates:
            yield from _tuning(plan, row, records)
    for stage in STAGES:
        members = [row for row in rows if row.stage == stage]
        for number in range(max((len(seeds_of(plan, row)) for row in members), default=0)):
            for row in members:
                found = runs_of(plan, row, records)
                yield from found[number : number + 1]


def runs_of(plan: Plan, row: Row, records: Mapping[str, Record]) -> list[Run]:
    """The reported runs of a row: its best rate with each seed; none while the rate is unknown."""
    if row.how == "untouched":
        return [_make(plan, row, None, None)]
    if row.how in PROJECTED:
        sources = runs_of(plan, plan.protocol.whole(plan.protocol.row(row.of)), records)
        wanted = [source for source in sources if not row.seeds or source.seed in row.seeds]
        return [_make(plan, row, None, source.seed, source) for source in wanted]
    rate = chosen_rate(plan, row, records)
    return [] if rate is None else [_make(plan, row, rate, seed) for seed in seeds_of(plan, row)]


def chosen_rate(plan: Plan, row: Row, records: Mapping[str, Record]) -> float | None:
    """The best rate of the row, or of its base, on the development set; None while it is unknown."""
    if not row.rates:
        base = plan.protocol.whole(plan.protocol.row(row.of)) if row.of else None
        return chosen_rate(plan, base, records) if base else None
    scores = rates_tried(plan, row, records)
    if any(rate not in scores for rate in rates_wanted(row.rates, scores)) or max(scores.values()) == float("-inf"):
        return None
    return max(scores, key=lambda rate: (scores[rate], -rate))


def seeds_of(plan: Plan, row: Row) -> list[int]:
    """The seeds that a row is run with; the first one tunes."""
    return row.seeds or plan.protocol.seeds[row.stage]


def rates_wanted(rates: list[float], scores: Mapping[float, float]) -> list[float]:
    """The rates to try, in order: those of the protocol, then further ones while the best is at an edge.

    A single rate is not tuned.

    Args:
        rates: of the protocol.
        scores: the criterion by rate, of rates tried; more is better.
    """
    wanted = list(rates)
    while all(rate in scores for rate in wanted) and 1 < len(wanted) < _MOST_RATES:
        best = max(wanted, key=lambda rate: (scores[rate], -rate))
        if scores[best] == float("-inf") or min(wanted) < best < max(wanted):
            break
        wanted.append(best * 2 if best == max(wanted) else best / 2)
    return wanted


def dev_name(protocol: Protocol) -> str:
    """Name of the development set in figures."""
    return stem_of(Path(protocol.data.dev))


def criterion_of(plan: Plan, run: Run, record: Record) -> float:
    """What a run is judged by."""
    return criterion(record.figures, dev_name(plan.protocol), run.row.cell)


def rates_tried(plan: Plan, row: Row, records: Mapping[str, Record]) -> dict[float, float]:
    """The criterion by learning rate, as far as it is known."""
    return {
        run.rate: criterion_of(plan, run, records[run.key])
        for run in _tuning(plan, row, records)
        if run.rate is not None and run.key in records
    }


def _tuning(plan: Plan, row: Row, records: Mapping[str, Record]) -> Iterator[Run]:
    """The runs that tune a row, as far as they are known to be wanted."""
    seed = seeds_of(plan, row)[0]
    scores: dict[float, float] = {}
    while missing := [rate for rate in rates_wanted(row.rates, scores) if rate not in scores]:
        run = _make(plan, row, missing[0], seed)
        yield run
        if run.key not in records:
            return
        scores[missing[0]] = criterion_of(plan, run, records[run.key])


def _make(plan: Plan, row: Row, rate: float | None, seed: int | None, source: Run | None = None) -> Run:
    settings: dict[str, Any] = {
        "how": row.how,
        "model": plan.protocol.model,
        "grid": [plan.protocol.depths, plan.protocol.dims],
        "data": {name: plan.hash_of(name) for name in ("dev", *row.data)},
    }
    if row.how in ("train", "matryoshka2d"):
        settings |= {"flags": row.flags, "loss": row.loss, "learning_rate": rate, "seed": seed}
    if row.how == "aligned":
        # Distinguishes records of earlier versions of the fit.
        settings["fit"] = "spans, mean squares"
    if source is not None:
        settings["source"] = source.key
    text = msgspec.json.encode(settings, order="deterministic")
    return Run(row, rate, seed, source, settings, hashlib.sha256(text).hexdigest()[:10])
