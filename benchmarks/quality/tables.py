"""Tables in Markdown, out of results."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

from benchmarks.quality.records import ACROSS, DEV, mean_and_spread
from benchmarks.quality.results import Results, RowResult, RunResult
from benchmarks.quality.texts import DEV_SEARCH
from ese_deploy.bundle.metrics import RETRIEVAL_METRICS
from ese_deploy.texts.reader import stem_of

__all__ = ["TABLES", "cells_of", "mean_of_sts", "on_dev"]

_BASE = "espresso"
_UNTOUCHED = "untouched"
_NDCG = RETRIEVAL_METRICS[0]
_MEAN = "mean"
_ACROSS_DIMS = (128, 384)
_ACROSS_DEPTHS = (1, 3, 5)
# Exits of these have a space of their own each.
_APART = ("pca",)

Cells = Mapping[str, float]
Source = Callable[[RunResult], Cells]


def cells_of(results: Results, row: RowResult, source: Source) -> dict[str, tuple[float, float | None]]:
    """Mean and spread over the runs of a row, for every cell, and for their mean where the row has the whole grid."""
    found = [dict(source(run)) for run in row.runs]
    found = [cells for cells in found if cells]
    only = results.protocol.whole(row.row).cell
    for cells in found:
        if not only:
            cells[_MEAN] = statistics.fmean(cells.values())
    names = [name for name in (found[0] if found else {}) if not only or name == only]
    return {name: mean_and_spread(cells[name] for cells in found) for name in names}


def on_dev(results: Results) -> Source:
    """Spearman x 100 on the development set."""
    return _figure("dev", f"{DEV}@{_stem(results.protocol.data.dev)}")


def mean_of_sts(results: Results) -> Source:
    """Spearman x 100, the mean over all test sets of scored pairs."""
    keys = [f"{DEV}@{_stem(path)}" for path in results.protocol.data.test_sts]

    def source(run: RunResult) -> Cells:
        sets = [run.test[key] for key in keys if key in run.test]
        if len(sets) < len(keys):
            return {}
        return {cell: 100 * statistics.fmean(one[cell] for one in sets) for cell in sets[0]}

    return source


def dev_table(results: Results) -> str:
    """Finalists on the development set."""
    return _finalists(results, on_dev(results))


def rates_table(results: Results) -> str:
    """What each learning rate gave."""
    rows = [row for row in results.rows if row.rates]
    rates = sorted({float(rate) for row in rows for rate in row.rates})
    lines = []
    for row in rows:
        scores = {float(rate): score for rate, score in row.rates.items()}
        texts = [_bold(f"{scores[rate]:.2f}", rate == row.rate) if rate in scores else "" for rate in rates]
        lines.append([_name(row), results.protocol.whole(row.row).cell or "mean of the grid", *texts])
    return _table(["row", "judged by", *(f"{rate:g}" for rate in rates)], lines)


def search_table(results: Results) -> str:
    """Search on its development set, and across depths, of all rows that were judged in it; of STS too."""
    deepest, dim = max(results.protocol.depths), results.protocol.dims[-1]
    columns = [f"{depth}>{deepest}x{dim}" for depth in results.protocol.depths if depth in _ACROSS_DEPTHS]
    own, across = (_figure("dev", f"{metric}@{DEV_SEARCH}") for metric in (_NDCG, ACROSS))
    lines = []
    for row in results.rows:
        found = cells_of(results, row, own)
        if not found:
            continue
        other = cells_of(results, row, across)
        texts = [*(_cell(found.get(name)) for name in results.protocol.named), *(_cell(other.get(c)) for c in columns)]
        lines.append([_name(row), *texts, _cell(cells_of(results, row, on_dev(results)).get(_MEAN))])
    return _table(["nDCG@10", *results.protocol.named, *columns, "STS, mean"], lines)


def stsb_table(results: Results) -> str:
    """Finalists on the first test set."""
    return _finalists(results, _figure("test", f"{DEV}@{_stem(results.protocol.data.test_sts[0])}"))


def sts_table(results: Results) -> str:
    """Finalists, mean over the test sets."""
    return _finalists(results, mean_of_sts(results))


def share_table(results: Results) -> str:
    """Finalists, shares of the untouched full model."""
    source = mean_of_sts(results)
    full = _full(results, source)
    return _finalists(results, lambda run: {name: 100 * value / full for name, value in source(run).items()}, "%")


def retrieval_table(results: Results) -> str:
    """Finalists on the retrieval collections."""
    sources = [_figure("test", f"{_NDCG}@{_stem(path)}") for path in results.protocol.data.test_retrieval]
    return "\n\n".join(_finalists(results, source) for source in sources)


def across_table(results: Results) -> str:
    """Queries of shallower exits in the full model's index, of finalists whose exits share a space."""
    deepest = max(results.protocol.depths)
    dims = [dim for dim in results.protocol.dims if dim in _ACROSS_DIMS] or results.protocol.dims[-1:]
    queries = [depth for depth in results.protocol.depths if depth <= deepest]
    lines = []
    for row in results.rows:
        keys = [f"{ACROSS}@{_stem(path)}" for path in results.protocol.data.test_retrieval]
        for key, dim in product(keys, dims):
            found = next((run.test[key] for run in row.runs if key in run.test), None)
            if found is None or row.row.name in _APART or results.protocol.whole(row.row).cell:
                continue
            scores = [100 * found[f"{depth}>{deepest}x{dim}"] for depth in queries]
            texts = [f"{score:.1f} ({100 * score / scores[-1]:.0f}%)" for score in scores[:-1]]
            lines.append([row.row.name, str(dim), *texts, f"{scores[-1]:.1f}"])
    return _table(["row", "dims", *(f"{depth} → {deepest}" for depth in queries)], lines)


def changes_table(results: Results, stage: str) -> str:
    """Rows that change the base: the differences to it with the same seeds."""
    source = on_dev(results)
    base = results.named(_BASE)
    if base is None:
        return _table([], [])
    by_seed = {run.seed: source(run) for run in base.runs}
    columns = [*results.protocol.named, _MEAN]
    whole = cells_of(results, base, source)
    lines = [[f"{_BASE}, {len(base.runs)} seeds", *(_cell(whole.get(name)) for name in columns)]]
    for row in results.rows:
        if row.row.stage != stage:
            continue
        pairs = [(source(run), by_seed.get(run.seed, {})) for run in row.runs]
        differences = [
            {**{name: a[name] - b[name] for name in a}, _MEAN: statistics.fmean(a[n] - b[n] for n in a)}
            for a, b in pairs
            if a and a.keys() == b.keys()
        ]
        if not differences:
            failed = next((run.failed for run in row.runs if run.failed), "")
            lines.append([_name(row), *([failed] if failed else [])])
            continue
        texts = [_cell(mean_and_spread(one[name] for one in differences), sign="+") for name in columns]
        lines.append([_name(row), *texts])
    return _table(["", *columns], lines)


TABLES: Mapping[str, Callable[[Results], str]] = {
    "rates": rates_table,
    "dev": dev_table,
    "search": search_table,
    "ablation": lambda results: changes_table(results, "ablation"),
    "ideas": lambda results: changes_table(results, "idea"),
    "stsb": stsb_table,
    "sts": sts_table,
    "share": share_table,
    "retrieval": retrieval_table,
    "across": across_table,
}
"""By the names that a page calls them by."""


def _figure(part: str, key: str) -> Source:
    def source(run: RunResult) -> Cells:
        return {cell: 100 * value for cell, value in getattr(run, part).get(key, {}).items()}

    return source


def _finalists(results: Results, source: Source, unit: str = "") -> str:
    columns = [*results.protocol.named, _MEAN]
    rows = [row for row in results.rows if row.row.stage == "finalist"]
    found = [(row, cells) for row in rows if (cells := cells_of(results, row, source))]
    # A model for one cell is no rival for a model of all.
    rivals = [cells for row, cells in found if not results.protocol.whole(row.row).cell]
    best = {name: max((cells[name][0] for cells in rivals), default=0.0) for name in columns}
    lines = []
    for row, cells in found:
        texts = [_cell(cells.get(name), bold=cells.get(name, (None,))[0] == best[name], unit=unit) for name in columns]
        lines.append([_name(row), str(sum(bool(source(run)) for run in row.runs)), *texts])
    return _table(["row", "runs", *columns], lines)


def _full(results: Results, source: Source) -> float:
    """The untouched full model."""
    untouched = results.named(_UNTOUCHED)
    cell = f"{max(results.protocol.depths)}x{max(results.protocol.dims)}"
    values = [cells[cell] for run in untouched.runs if (cells := source(run))] if untouched else []
    return statistics.fmean(values) if values else float("nan")


def _cell(value: tuple[float, float | None] | None, *, sign: str = "", bold: bool = False, unit: str = "") -> str:
    if value is None:
        return ""
    mean, spread = value
    return _bold(f"{mean:{sign}.1f}{unit}", bold) + (f" ± {spread:.1f}" if spread is not None else "")


def _name(row: RowResult) -> str:
    return f"{row.row.name}: {row.row.why}" if row.row.why and row.row.stage != "finalist" else row.row.name


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _stem(path: str) -> str:
    return stem_of(Path(path))


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [list(line) + [""] * (len(columns) - len(line)) for line in lines]
    if not rows:
        return "Not measured yet."
    head = [f"| {' | '.join(columns)} |", f"|{'|'.join(['---', *['---:'] * (len(columns) - 1)])}|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])
