"""The tables of a report, made once and written as HTML and as Markdown."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ese_deploy.bench.results import OWN, Group, Ratio, Results, Row, median_rate, ratio, reference_row
from ese_deploy.report.analysis import depth_lines, main_quality, peer_ratios, share_of_limit

__all__ = ["Cell", "Table", "cell", "result_tables", "side_by_side"]


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: what people read.
        value: what rows are sorted by; None for words.
        mark: ``win``, ``loss``, ``noisy`` or nothing.
    """

    text: str
    value: float | None = None
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        key: a name for links.
        title: what it shows.
        note: what a reader must know of it.
        columns: names; of numbers with a blank at the end, as in :func:`ese_deploy.cli.console.print_table`.
        rows: cells.
    """

    key: str
    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def cell(value: float | None, text: str | None = None, mark: str = "") -> Cell:
    """A number with three significant digits, or as it is written in ``text``."""
    if value is None:
        return Cell("not measured" if text is None else text, None, mark)
    return Cell(number(value) if text is None else text, value, mark)


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def result_tables(results: Results) -> list[Table]:
    """All tables of one run; those without a row are left out."""
    made = [
        _peers(results),
        _throughput(results),
        _latency(results),
        _depth(results),
        _costs(results),
        _limits(results),
        _sweeps(results),
    ]
    return [table for table in made if table.rows]


def side_by_side(results: Sequence[Results], names: Sequence[str]) -> Table:
    """Every row that more than one run has: its rate in each, and its ratio to the full model in each."""
    found: dict[tuple[object, ...], dict[int, tuple[Group, Row]]] = {}
    for position, one in enumerate(results):
        for group in one.groups:
            for row in group.rows:
                found.setdefault((*group.key, *row.key), {})[position] = (group, row)
    rows = []
    for held in found.values():
        if len(held) < 2:
            continue
        group, row = next(iter(held.values()))
        cells = [*_place(group), *_who(row)]
        for position, one in enumerate(results):
            if position not in held:
                cells += [Cell("not measured"), Cell("")]
                continue
            there, same = held[position]
            reference = reference_row(there, one)
            cells.append(_speed(there, same, one))
            cells.append(_ratio_cell(ratio(same, reference)) if reference else Cell(""))
        rows.append(cells)
    heads = [head for name in names for head in (f"{name} ", "× full fp32 ")]
    note = "Rates in texts/s, latency in ms (p50). The ratio is to the full model in fp32 of the same run and group."
    columns = ["what", "study", "texts", "threads ", "who", "target", "engine", "dtype", *heads]
    return Table("side-by-side", "Side by side", note, columns, rows)


def _peers(results: Results) -> Table:
    rows = []
    for one in peer_ratios(results):
        mark = "win" if one.ratio.low > 1 else "loss" if one.ratio.high < 1 else ""
        rows.append(
            [
                *_place(one.group, study=False),
                Cell(one.peer.who),
                Cell(one.peer.dtype),
                Cell(one.peer.setting),
                Cell(f"{one.own.dtype}, {one.own.engine}"),
                _speed(one.group, one.peer, results),
                cell(one.ratio.value, f"{one.ratio.value:.2f}", mark),
                Cell(f"{one.ratio.low:.2f} to {one.ratio.high:.2f}", one.ratio.low),
                cell(one.peer.cosine_min, f"{one.peer.cosine_min:.5f}"),
                Cell("noisy" if one.ratio.noisy else "", float(one.ratio.noisy), "noisy" if one.ratio.noisy else ""),
            ]
        )
    return Table(
        "peers",
        "Against peers",
        "How many times as fast ese-deploy's full model is as the peer, text to vectors, in the same rounds: in the "
        "peer's dtype on the engine that is fastest, or in fp32 where it was not timed in that dtype. Each peer at its "
        "best batch size. Below 1 the peer is faster. Spread: quartiles over rounds. Cosine: the lowest of any vector "
        "with ese-deploy's. Rates in texts/s, latency in ms.",
        [
            *("what", "texts", "threads ", "peer", "dtype", "batches", "beside"),
            *("peer's speed ", "ratio ", "spread ", "cosine ", ""),
        ],
        rows,
    )


def _throughput(results: Results) -> Table:
    rows = []
    for group in results.groups:
        if group.kind != "throughput":
            continue
        reference, texts = reference_row(group, results), results.texts[group.length]
        for row in group.rows:
            share = share_of_limit(row, group)
            rows.append(
                [
                    *_place(group)[1:],
                    *_who(row),
                    Cell(row.setting),
                    cell(median_rate(texts.texts, row.seconds)),
                    cell(median_rate(texts.tokens, row.seconds)),
                    *_ratio_cells(row, reference),
                    cell(row.padding, f"{row.padding:.1%}" if row.padding is not None else "unknown"),
                    cell(median_rate(row.operations, row.seconds) / 1e9),
                    cell(share, f"{share:.0%}") if share is not None else Cell("not measured"),
                    _remark(row),
                ]
            )
    return Table(
        "throughput",
        "Throughput",
        "All texts once, medians over rounds. GFLOP/s count the matrix products of the texts without padding; their "
        "share is of the machine's own rate in the same dtype and rounds.",
        [
            "study",
            "texts",
            "threads ",
            "who",
            "target",
            "engine",
            "dtype",
            "batches",
            "texts/s ",
            "tokens/s ",
            "× full fp32 ",
            "spread ",
            "padding ",
            "GFLOP/s ",
            "of the limit ",
            "",
        ],
        rows,
    )


def _latency(results: Results) -> Table:
    rows = []
    for group in results.groups:
        if group.kind != "latency":
            continue
        reference = reference_row(group, results)
        for row in group.rows:
            times = [cell(row.percentiles[name] * 1e3) for name in ("p50", "p95", "p99")]
            calls = cell(row.calls, str(row.calls))
            rows.append([*_place(group)[2:], *_who(row), *times, *_ratio_cells(row, reference), calls, _remark(row)])
    return Table(
        "latency",
        "Latency of one text",
        "Milliseconds from one text to its vector, over the calls of all rounds.",
        [
            "texts",
            "threads ",
            "who",
            "target",
            "engine",
            "dtype",
            "p50 ",
            "p95 ",
            "p99 ",
            "× full fp32 ",
            "spread ",
            "calls ",
            "",
        ],
        rows,
    )


def _depth(results: Results) -> Table:
    rows = []
    for line in depth_lines(results):
        unit = 1e3 if line.group.kind == "latency" else 1e6 / results.texts[line.group.length].tokens
        worst = max(line.deviations.items(), key=lambda item: abs(item[1]))
        rows.append(
            [
                *_place(line.group, study=False),
                Cell(line.engine),
                Cell(line.dtype),
                cell(line.slope * unit),
                cell(line.start * unit),
                cell(worst[1], f"{worst[1]:+.1%} at depth {worst[0]}", "loss" if abs(worst[1]) > 0.1 else ""),
            ]
        )
    return Table(
        "depth",
        "Time over depth",
        "The line goes through the least and the greatest depth. Throughput in µs a token, latency in ms a text. Off "
        "the line: the depth between that is farthest from it; beyond 10% it is marked.",
        ["what", "texts", "threads ", "engine", "dtype", "one block ", "the rest ", "off the line "],
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
        "MB (10^6 bytes) and milliseconds, medians over processes. Size: graph, the weights that it reads, tokenizer. "
        "Memory: what loading and a first text add to anonymous memory, and its peak over a batch of 32. Cold start: "
        f"from starting a process to its first vector. Quality: {', '.join(metrics) or 'not in the bundle'}.",
        ["target", "engine", "size ", "memory ", "peak ", "load ", "cold start ", "quality ", "processes "],
        rows,
    )


def _limits(results: Results) -> Table:
    rows = []
    for group in results.groups:
        for limit in group.limits:
            rate = statistics.median(limit.rates) / 1e9 if limit.rates else None
            rows.append(
                [
                    *_place(group),
                    Cell(limit.dtype),
                    Cell(limit.device),
                    Cell(limit.kernel or limit.reason),
                    Cell(" × ".join(map(str, limit.shape))),
                    cell(rate),
                ]
            )
    return Table(
        "limits",
        "The machine's own limit",
        "Matrix products alone, timed in the same rounds as the rows of their group, at the fastest of three shapes.",
        ["what", "study", "texts", "threads ", "dtype", "device", "kernel", "m × k × n", "GFLOP/s "],
        rows,
    )


def _sweeps(results: Results) -> Table:
    rows = []
    for peer in results.peers:
        for length, trials in peer.sweep.items():
            best = min(trials.values())
            for setting, seconds in trials.items():
                mark = "win" if seconds == best else ""
                cells = [Cell(length), Cell(peer.name), Cell(peer.dtype), Cell(setting)]
                rows.append([*cells, cell(seconds * 1e3), cell(seconds / best, f"{seconds / best:.2f}", mark)])
    return Table(
        "sweep",
        "Batch sizes that peers were tried at",
        "Milliseconds for at most 64 of the texts, the better of two trials; the fastest setting was timed.",
        ["texts", "peer", "dtype", "batches", "ms ", "× the best "],
        rows,
    )


def _place(group: Group, study: bool = True) -> list[Cell]:
    cells = [Cell(group.kind), Cell(group.study), Cell(group.length), Cell(str(group.threads), group.threads)]
    return cells if study else [cells[0], *cells[2:]]


def _who(row: Row) -> list[Cell]:
    return [Cell(row.who), Cell(row.target), Cell(row.engine if row.who == OWN else ""), Cell(row.dtype)]


def _speed(group: Group, row: Row, results: Results) -> Cell:
    if group.kind == "latency":
        return cell(row.percentiles["p50"] * 1e3)
    return cell(median_rate(results.texts[group.length].texts, row.seconds))


def _ratio_cell(found: Ratio) -> Cell:
    return cell(found.value, f"{found.value:.2f}", "noisy" if found.noisy else "")


def _ratio_cells(row: Row, reference: Row | None) -> list[Cell]:
    if reference is None:
        return [Cell("no full fp32"), Cell("")]
    if row is reference:
        return [cell(1.0, "1"), Cell("")]
    found = ratio(row, reference)
    return [cell(found.value, f"{found.value:.2f}"), Cell(f"{found.low:.2f} to {found.high:.2f}", found.low)]


def _remark(row: Row) -> Cell:
    if not row.counted:
        return Cell(f"other vectors (cosine {row.cosine_min:.3f}): does not count", 2.0, "loss")
    return Cell("noisy", 1.0, "noisy") if row.noisy else Cell("", 0.0)
