"""Files that a report can hold besides those of a bench: results of ``evaluate`` and of a load on a server."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ese_deploy.bench.results import Results
from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import METRIC_WORDS, METRICS
from ese_deploy.errors import InputError
from ese_deploy.report.tables import Cell, Column, Table, cell

__all__ = ["EvaluationFile", "ServeFile", "ServeStep", "evaluation_tables", "read_other", "serve_table", "with_quality"]


class EvaluatedTarget(msgspec.Struct, frozen=True):
    """A target or a baseline with its figures."""

    quality: list[Quality]
    target: str = ""


class EvaluatedBaseline(msgspec.Struct, frozen=True):
    """What finds documents without the model."""

    name: str
    figures: list[Quality]


class EvaluationFile(msgspec.Struct, frozen=True):
    """What ``ese-deploy evaluate --out`` writes."""

    model: str
    targets: list[EvaluatedTarget]
    asymmetric: list[dict[str, Any]]
    baselines: list[EvaluatedBaseline] = []


class ServeStep(msgspec.Struct, frozen=True):
    """What was measured at one rate of requests.

    Attributes:
        rate: requests a second that were scheduled.
        requests: requests that were sent.
        statuses: how many answers had each status; 0 is a connection that was closed.
        texts_per_second: texts answered, divided by the time from the first start to the last answer.
        p50_ms: median latency of the requests that were answered with 200.
        p99_ms: 99th percentile.
        late_ms: 99th percentile of how late the generator itself was.
        wrong: answers whose vectors differ from the expected ones by more than 1e-6; None if they were not checked.
        cpu_seconds: CPU time of the server; None if it was not measured.
    """

    rate: float
    requests: int
    statuses: dict[str, int]
    texts_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    late_ms: float
    wrong: int | None = None
    cpu_seconds: float | None = None


class ServeFile(msgspec.Struct, frozen=True):
    """What the load generator of ``benchmarks/serve`` writes.

    Attributes:
        plan: what was asked of the server.
        steps: one for each rate.
    """

    plan: dict[str, Any]
    steps: list[ServeStep]


@dataclass(frozen=True)
class _Keys:
    needed: frozenset[str]
    kind: type[EvaluationFile | ServeFile]


_KINDS = (
    _Keys(frozenset({"model", "targets", "asymmetric"}), EvaluationFile),
    _Keys(frozenset({"plan", "steps"}), ServeFile),
)


def read_other(path: Path) -> EvaluationFile | ServeFile | None:
    """Read a file of ``evaluate`` or of a load on a server; None for another file, also one that cannot be read.

    Raises:
        InputError: the file is of one of these kinds, and broken.
    """
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for kind in _KINDS:
        if isinstance(found, dict) and kind.needed <= found.keys():
            try:
                return msgspec.convert(found, type=kind.kind)
            except msgspec.ValidationError as error:
                raise InputError(f"{path} cannot be read as results: {error}. Measure again.") from None
    return None


def with_quality(results: Results, evaluations: Sequence[EvaluationFile]) -> Results:
    """Results with the figures of an evaluation of the same bundle, which are newer than those in its manifest."""
    quality = dict(results.quality)
    for found in evaluations:
        if found.model == results.name:
            for one in found.targets:
                fresh = {(figure.metric, figure.data) for figure in one.quality}
                kept = [old for old in quality.get(one.target, []) if (old.metric, old.data) not in fresh]
                quality[one.target] = [*kept, *one.quality]
    return msgspec.structs.replace(results, quality=quality)


def evaluation_tables(found: EvaluationFile, key: str) -> list[Table]:
    """A table for each data set: targets, then figures with their intervals and shares."""
    data = list(dict.fromkeys(figure.data for one in found.targets for figure in one.quality))
    return [_evaluation_table(found, name, f"{key}-{place}") for place, name in enumerate(data)]


def _evaluation_table(found: EvaluationFile, data: str, key: str) -> Table:
    rows = [(one.target, _of(one.quality, data)) for one in found.targets]
    rows += [(f"{one.name}, no model", _of(one.figures, data)) for one in found.baselines]
    rows = [(name, figures) for name, figures in rows if figures]
    metrics = [metric for metric in METRICS if any(metric in figures for _, figures in rows)]
    count = next(figure.n for _, figures in rows for figure in figures.values())
    meanings = " ".join(f"{_short(metric)}: {METRIC_WORDS[metric]}." for metric in metrics)
    columns = [Column("target")]
    for metric in metrics:
        columns += [Column(f"{_short(metric)} x 100", numeric=True), Column("compared with full")]
    cells = [
        [Cell(name), *(item for metric in metrics for item in _cells(figures.get(metric)))] for name, figures in rows
    ]
    return Table(
        key,
        f"Quality on {data}",
        f"n = {count}. {meanings} ±: 95% confidence interval, by bootstrap, paired for the comparison with full.",
        columns,
        cells,
    )


def _of(figures: list[Quality], data: str) -> dict[str, Quality]:
    return {figure.metric: figure for figure in figures if figure.data == data}


def _short(metric: str) -> str:
    return metric.replace("_at_", "@").replace("_", " ")


def _cells(figure: Quality | None) -> list[Cell]:
    if figure is None:
        return [Cell(""), Cell("")]
    text = f"{figure.value * 100:.1f}"
    if figure.interval is not None:
        low, high = figure.interval
        text += f" ±{max(figure.value - low, high - figure.value, 0.0) * 100:.1f}"
    if math.isnan(figure.share_of_full):
        return [cell(figure.value * 100, text), Cell("")]
    seen = figure.differs or figure.difference == (0.0, 0.0)
    share = f"{figure.share_of_full:.0%}" if seen else "no difference seen"
    return [cell(figure.value * 100, text), Cell(share, figure.share_of_full)]


def serve_table(found: ServeFile, key: str) -> Table:
    """Latency and throughput of a server at each rate of requests."""
    plan = found.plan
    rows = [
        [
            cell(step.rate),
            cell(step.p50_ms),
            cell(step.p99_ms),
            cell(step.texts_per_second),
            cell(_failed(step), str(_failed(step)), "loss" if _failed(step) else ""),
            cell(step.late_ms, mark="noisy" if step.late_ms > 10 else ""),
        ]
        for step in found.steps
    ]
    titles = ("requests/s", "p50, ms", "p99, ms", "texts/s", "failed", "generator late, ms")
    return Table(
        key,
        f"Server under load: {plan.get('model', '')}",
        f"Requests of {plan.get('texts', '?')} texts of {plan.get('words', '?')} words, sent on schedule for "
        f"{plan.get('seconds', '?')} s at each rate, whatever the server answers. Where the generator itself was more "
        "than 10 ms late (99th percentile), the latency is not the server's alone, and is marked.",
        [Column(title, numeric=True) for title in titles],
        rows,
    )


def _failed(step: ServeStep) -> int:
    return step.requests - step.statuses.get("200", 0)
