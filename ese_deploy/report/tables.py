"""The tables of a report, made once and written as HTML and as Markdown."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ese_deploy.bench.results import Group, Results, Row, reference_row
from ese_deploy.bench.timing import Ratio, ratio
from ese_deploy.report.analysis import AGREE, baseline_ratios, depth_lines, main_quality, share_of_peak

__all__ = ["Cell", "Column", "Table", "batching", "cell", "number", "result_tables", "side_by_side"]

# Cores of other processes from which on timings are marked.
_MUCH_LOAD = 0.3

Mark = Literal["", "win", "loss", "noisy"]


@dataclass(frozen=True)
class Column:
    """A column: its title, and whether it contains numbers."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        value: the number that rows are sorted by; None for words.
        mark: how it is coloured.
    """

    text: str
    value: float | None = None
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: a name for links.
        note: how to read it.
        columns: words that identify a row first, then numbers, the most important first.
        rows: one cell for each column.
    """

    key: str
    title: str
    note: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


def cell(value: float | None, text: str | None = None, mark: Mark = "") -> Cell:
    """A number with three significant digits, or as ``text`` writes it."""
    if value is None:
        return Cell("not measured" if text is None else text, None, mark)
    return Cell(number(value) if text is None else text, value, mark)


def number(value: float) -> str:
    """Three significant digits, with a separator of thousands."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def batching(row: Row) -> str:
    """The batch of a row, in words."""
    if row.batch is None:
        return "one text"
    if not row.is_baseline:
        return f"{row.batch} tokens" + (" (default)" if row.is_default else "")
    return f"{row.batch} texts" + (f", {row.mode}" if row.mode else "")


def result_tables(results: Results) -> list[Table]:
    """All tables of one run; those without a row are left out."""
    made = [
        _baselines(results),
        _throughput(results),
        _latency(results),
        _depth(results),
        _costs(results),
        _peaks(results),
        _trials(results),
    ]
    return [table for table in made if table.rows]


def side_by_side(results: Sequence[Results], names: Sequence[str]) -> Table:
    """Every row that more than one run contains: its speed in each, and its ratio to the full model in each."""
    found: dict[tuple[object, ...], dict[int, tuple[Group, Row]]] = {}
    for position, one in enumerate(results):
        for group in one.groups:
            for row in group.rows:
                found.setdefault((*group.key, *row.key), {})[position] = (group, row)
    rows = []
    for pairs in found.values():
        if len(pairs) < 2:
            continue
        group, row = next(iter(pairs.values()))
        cells = [*_contender(row), Cell(group.kind), Cell(group.study), *_case(group)]
        for position, one in enumerate(results):
            if position not in pairs:
                cells += [Cell("not measured"), Cell("")]
                continue
            there, same = pairs[position]
            reference = reference_row(there, one)
            cells.append(_speed(there, same, one))
            cells.append(_ratio_cell(ratio(same.timing, reference.timing)) if reference else Cell(""))
        rows.append(cells)
    heads = [head for name in names for head in (name, "× full fp32")]
    note = (
        "Throughput in texts/s, latency in ms (p50). The ratio is to the full model in fp32 of the same run and group."
    )
    return Table("side-by-side", "Side by side", note, _columns([*_CONTENDER, "what", "study", *_CASE], heads), rows)


def _baselines(results: Results) -> Table:
    rows = []
    for one in baseline_ratios(results):
        row, found = one.baseline, one.ratio
        mark: Mark = "win" if found.low > 1 else "loss" if found.high < 1 else ""
        rows.append(
            [
                Cell(row.name),
                Cell(row.dtype),
                Cell(one.group.kind),
                *_case(one.group),
                Cell(f"{one.own.dtype}, {one.own.engine}"),
                Cell(batching(row)),
                cell(found.value, f"{found.value:.2f}", mark),
                Cell(f"{found.low:.2f} to {found.high:.2f}", found.low),
                _speed(one.group, row, results),
                cell(row.cosine_min, f"{row.cosine_min:.5f}"),
                Cell("noisy", 1.0, "noisy") if found.noisy else Cell("", 0.0),
            ]
        )
    return Table(
        "baselines",
        "Comparison with baselines",
        "How many times as fast ese-deploy's full model is as the baseline, from text to vectors, in the same rounds. "
        "The baseline runs at its best batch size. ese-deploy runs in the same dtype on its fastest engine, or in fp32 "
        "where it was not timed in that dtype. Below 1 the baseline is faster. Quartiles are over rounds. The cosine "
        "is the lowest of any vector with ese-deploy's. Throughput in texts/s, latency in ms.",
        _columns(
            ["baseline", "dtype", "what", *_CASE, "compared with", "batch"],
            ["ratio", "quartiles", "baseline's speed", "lowest cosine"],
            remark=True,
        ),
        rows,
    )


def _throughput(results: Results) -> Table:
    rows = []
    for group in results.groups:
        if group.kind != "throughput":
            continue
        reference, texts = reference_row(group, results), results.texts[group.length]
        for row in group.rows:
            share = share_of_peak(row, group)
            rows.append(
                [
                    *_contender(row),
                    Cell(group.study),
                    *_case(group),
                    Cell(batching(row)),
                    _timed(row, row.timing.rate(texts.texts)),
                    *_ratio_cells(row, reference),
                    _load(group),
                    cell(row.timing.rate(texts.tokens)),
                    cell(row.padding, f"{row.padding:.1%}" if row.padding is not None else "unknown"),
                    cell(row.timing.rate(row.operations) / 1e9),
                    cell(share, f"{share:.0%}") if share is not None else Cell("not measured"),
                    _remark(row),
                ]
            )
    return Table(
        "throughput",
        "Throughput",
        "All texts once, medians over rounds. GFLOP/s count the matrix products of the texts without padding. Their "
        f"share is of peak GEMM, the machine's own matrix products in the same dtype and rounds. {_UNCERTAIN}",
        _columns(
            [*_CONTENDER, "study", *_CASE, "batch"],
            ["texts/s", "× full fp32", "quartiles", "others, cores", "tokens/s", "padding", "GFLOP/s", "of peak GEMM"],
            remark=True,
        ),
        rows,
    )


def _latency(results: Results) -> Table:
    rows = []
    for group in results.groups:
        if group.kind != "latency":
            continue
        reference = reference_row(group, results)
        for row in group.rows:
            times = [_timed(row, row.timing.percentiles[name] * 1e3) for name in ("p50", "p95", "p99")]
            tail = [_load(group), cell(row.timing.calls, str(row.timing.calls)), _remark(row)]
            rows.append([*_contender(row), *_case(group), *times, *_ratio_cells(row, reference), *tail])
    return Table(
        "latency",
        "Latency of one text",
        f"Milliseconds from one text to its vector, over the calls of all rounds. {_UNCERTAIN}",
        _columns(
            [*_CONTENDER, *_CASE],
            ["p50, ms", "p95, ms", "p99, ms", "× full fp32", "quartiles", "others, cores", "calls"],
            remark=True,
        ),
        rows,
    )


def _depth(results: Results) -> Table:
    rows = []
    for line in depth_lines(results):
        unit = 1e3 if line.group.kind == "latency" else 1e6 / results.texts[line.group.length].tokens
        depth, worst = line.worst
        rows.append(
            [
                Cell(line.engine),
                Cell(line.dtype),
                Cell(line.group.kind),
                *_case(line.group),
                cell(worst, f"{worst:+.1%} at depth {depth}", "loss" if abs(worst) > AGREE else ""),
                cell(line.slope * unit),
                cell(line.start * unit),
            ]
        )
    return Table(
        "depth",
        "Time over depth",
        "A line is drawn through the least and the greatest depth; the largest deviation of a depth between them is "
        "shown, and marked beyond 10%. Throughput in µs per token, latency in ms per text.",
        _columns(["engine", "dtype", "what", *_CASE], ["deviation", "one layer", "everything else"]),
        rows,
    )


def _costs(results: Results) -> Table:
    rows, figures = [], main_quality(results)
    for cost in results.costs:
        quality = figures.get(cost.target)
        rows.append(
            [
                Cell(cost.target),
                Cell(cost.engine),
                cell(cost.bytes / 1e6),
                cell(None if cost.growth_bytes is None else cost.growth_bytes / 1e6),
                cell(None if cost.peak_bytes is None else cost.peak_bytes / 1e6),
                cell(cost.load_seconds * 1e3),
                cell(cost.cold_seconds * 1e3),
                cell(quality.value if quality else None, f"{quality.value:.3f}" if quality else None),
                cell(cost.runs, str(cost.runs)),
            ]
        )
    metrics = {quality.metric for quality in figures.values()}
    return Table(
        "costs",
        "Size, memory and start",
        "Medians over processes; 1 MB is 10^6 bytes. Size: graph, the weights that it reads, and tokenizer. Memory: "
        "anonymous memory that loading and a first text add, and its peak while a batch of 32 texts is embedded. Cold "
        f"start: from starting a process to its first vector. Quality: {', '.join(metrics) or 'not in the bundle'}.",
        _columns(
            ["target", "engine"],
            [
                *("size, MB", "memory, MB", "peak memory, MB", "load, ms", "cold start, ms"),
                *("quality", "processes"),
            ],
        ),
        rows,
    )


def _peaks(results: Results) -> Table:
    rows = [
        [
            Cell(peak.dtype),
            Cell(peak.device),
            Cell(group.kind),
            Cell(group.study),
            *_case(group),
            Cell(peak.kernel or peak.reason),
            Cell(" × ".join(map(str, peak.shape))),
            cell(statistics.median(peak.rates) / 1e9 if peak.rates else None),
        ]
        for group in results.groups
        for peak in group.peaks
    ]
    return Table(
        "peaks",
        "Peak GEMM of the machine",
        "Matrix products alone, timed in the same rounds as the rows of their group, at the fastest of several shapes.",
        _columns(["dtype", "device", "what", "study", *_CASE, "kernel", "m × k × n"], ["GFLOP/s"]),
        rows,
    )


def _trials(results: Results) -> Table:
    rows = []
    for one in results.baselines:
        for length, trials in one.trials.items():
            best = min(trial.seconds for trial in trials)
            for trial in trials:
                mark: Mark = "win" if trial.seconds == best else ""
                setting = f"{trial.batch} texts" + (f", {trial.mode}" if trial.mode else "")
                cells = [Cell(one.name), Cell(one.dtype), Cell(length), Cell(setting), cell(trial.seconds * 1e3)]
                rows.append([*cells, cell(trial.seconds / best, f"{trial.seconds / best:.2f}", mark)])
    return Table(
        "trials",
        "Batch sizes tried for baselines",
        "Milliseconds for at most 64 of the texts, the better of two trials. The fastest setting was timed.",
        _columns(["baseline", "dtype", "texts", "batch"], ["time, ms", "× the best"]),
        rows,
    )


_UNCERTAIN = "~: noisy, known less precisely than 5%. Others: cores that other processes used meanwhile."
_CONTENDER = ("contender", "target")
_CASE = ("texts", "threads")


def _columns(words: Sequence[str], numbers: Sequence[str], remark: bool = False) -> list[Column]:
    columns = [*(Column(title) for title in words), *(Column(title, numeric=True) for title in numbers)]
    return [*columns, Column("remark")] if remark else columns


def _case(group: Group) -> list[Cell]:
    return [Cell(group.length), Cell(str(group.threads), group.threads)]


def _contender(row: Row) -> list[Cell]:
    return [Cell(row.name if row.is_baseline else f"{row.name}, {row.engine}"), Cell(row.target)]


def _speed(group: Group, row: Row, results: Results) -> Cell:
    if group.kind == "latency":
        return cell(row.timing.percentiles["p50"] * 1e3)
    return cell(row.timing.rate(results.texts[group.length].texts))


def _timed(row: Row, value: float) -> Cell:
    """A figure of a row, with a sign where it is noisy."""
    return cell(value, f"~{number(value)}", "noisy") if row.timing.noisy else cell(value)


def _load(group: Group) -> Cell:
    """The cores that others used while a group was timed."""
    load = group.other_load
    return Cell("unknown") if load is None else cell(load, f"{load:.2f}", "noisy" if load > _MUCH_LOAD else "")


def _ratio_cell(found: Ratio) -> Cell:
    return cell(found.value, f"{found.value:.2f}", "noisy" if found.noisy else "")


def _ratio_cells(row: Row, reference: Row | None) -> list[Cell]:
    if reference is None:
        return [Cell("no full fp32"), Cell("")]
    if row is reference:
        return [cell(1.0, "1"), Cell("")]
    found = ratio(row.timing, reference.timing)
    return [cell(found.value, f"{found.value:.2f}"), Cell(f"{found.low:.2f} to {found.high:.2f}", found.low)]


def _remark(row: Row) -> Cell:
    if not row.counted:
        return Cell(f"other vectors (cosine {row.cosine_min:.3f}), does not count", 2.0, "loss")
    return Cell("noisy", 1.0, "noisy") if row.timing.noisy else Cell("", 0.0)
