"""Quality figures as tables and heat maps: what ``evaluate`` shows of an evaluation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import AGREEMENT, METRIC_WORDS, NEIGHBOURS, RETRIEVAL_METRICS, STS_METRICS
from ese_deploy.cli.console import print_table
from ese_deploy.system.files import explain_os_error
from ese_deploy.system.terminal import visible
from ese_deploy.target import Target

if TYPE_CHECKING:
    from ese_deploy.evaluate import AsymmetricCell, Evaluation

__all__ = ["draw_figures", "figure_in_words", "print_figures"]

# The metrics that are printed and drawn; --json and --out have all.
_SHOWN = (
    AGREEMENT,
    NEIGHBOURS,
    STS_METRICS[0],
    STS_METRICS[2],
    RETRIEVAL_METRICS[0],
    RETRIEVAL_METRICS[2],
    RETRIEVAL_METRICS[3],
)
_UNITS = {"sts": "pairs", "ndcg": "queries", "recall": "queries", "mrr": "queries"}

Tables = Mapping[tuple[str, str], Mapping[Target, Quality]]


def figure_in_words(figure: Quality | None) -> str:
    """A figure x 100, half of its interval, and its share of the full model's, or ``=`` where no difference is seen."""
    if figure is None:
        return ""
    half = _half_interval(figure)
    return f"{figure.value * 100:.1f}{f' ±{half:.1f}' if half is not None else ''}{_share_in_words(figure)}"


def _half_interval(figure: Quality) -> float | None:
    """The wider half of a figure's interval, x 100."""
    if figure.interval is None:
        return None
    low, high = figure.interval
    return max(figure.value - low, high - figure.value, 0.0) * 100


def _share_in_words(figure: Quality) -> str:
    if math.isnan(figure.share_of_full):
        return ""
    if figure.differs or figure.difference == (0.0, 0.0):
        return f" ({figure.share_of_full:.0%})"
    return " (=)"


def print_figures(found: "Evaluation") -> None:
    """Print a table for each metric and data set, and for retrieval one of queries against documents."""
    tables = _tables(found)
    for (metric, data), values in tables.items():
        dims = sorted({target.dim for target in values})
        rows = [
            [
                f"{depth}" if dtype == "fp32" else f"{depth} {dtype}",
                *(figure_in_words(values.get(Target(depth, dim, dtype))) for dim in dims),
            ]
            for dtype, depth in dict.fromkeys((target.dtype, target.depth) for target in values)
        ]
        print_table(
            ["depth", *(f"{dim} dims " for dim in dims)], rows, _title(metric, data, next(iter(values.values())))
        )
        baselines = list(_baselines(found, metric, data))
        for name, figure in baselines:
            print(f"{name}, without a model: {figure_in_words(figure)}")
        print(_notes([*values.values(), *(figure for _, figure in baselines)], metric))
    for (data, dim), cells in _by_matrix(found.asymmetric).items():
        _print_pairs(data, dim, cells)
    if any(metric in RETRIEVAL_METRICS for metric, _ in tables):
        given = ", ".join(f"{role}: {prompt!r}" for role, prompt in found.prompts.items() if prompt and role != "text")
        print(visible(f"Prompts put before texts: {given or 'none'}"))


def _title(metric: str, data: str, figure: Quality) -> str:
    return f"{METRIC_WORDS[metric]}, x 100, on {data} ({figure.n} {_unit(metric)}; {metric})"


def _unit(metric: str) -> str:
    return _UNITS.get(metric.partition("_")[0], "texts")


def _notes(figures: Sequence[Quality], metric: str) -> str:
    """What the signs of a table mean; an empty line where it has none."""
    notes = []
    if any(figure.interval for figure in figures):
        notes.append("±: 95% confidence interval, by bootstrap.")
    if any(_share_in_words(figure) == " (=)" for figure in figures):
        notes.append(f"(=): no difference from the full model can be seen with {figures[0].n} {_unit(metric)}.")
    return f"{' '.join(notes)}\n" if notes else ""


def _tables(found: "Evaluation") -> dict[tuple[str, str], dict[Target, Quality]]:
    """The figures that are shown, by metric and data."""
    tables: dict[tuple[str, str], dict[Target, Quality]] = {}
    for target, figures in found.figures.items():
        for one in figures:
            if one.metric in _SHOWN:
                tables.setdefault((one.metric, one.data), {})[target] = one
    return tables


def _baselines(found: "Evaluation", metric: str, data: str) -> Iterator[tuple[str, Quality]]:
    for baseline in found.baselines:
        for figure in baseline.figures:
            if (figure.metric, figure.data) == (metric, data):
                yield baseline.name, figure


def _by_matrix(pairs: "Sequence[AsymmetricCell]") -> "dict[tuple[str, int], list[AsymmetricCell]]":
    """The pairs of exits by data and dim, where there is more than one."""
    matrices: dict[tuple[str, int], list[AsymmetricCell]] = {}
    for cell in pairs:
        matrices.setdefault((cell.data, cell.dim), []).append(cell)
    return {key: cells for key, cells in sorted(matrices.items()) if len(cells) > 1}


def _print_pairs(data: str, dim: int, cells: "Sequence[AsymmetricCell]") -> None:
    documents = sorted({cell.document for cell in cells})
    found = {
        (cell.query, cell.document): f"{cell.score.ndcg_at_10 * 100:.1f} ({cell.share:.0%})"
        + ("" if cell.comparable else "*")
        for cell in cells
    }
    rows = [[str(query), *(found.get((query, d), "") for d in documents)] for query in sorted({c.query for c in cells})]
    title = f"{METRIC_WORDS['ndcg_at_10']}, x 100, on {data}, queries of one depth and documents of another, {dim} dims"
    print_table(["queries \\ documents", *(f"{depth} " for depth in documents)], rows, title)
    print("In brackets: the share of what queries of the documents' own depth score.")
    if not all(cell.comparable for cell in cells):
        print("*: the two exits have different embedding spaces.")
    print()


def draw_figures(folder: Path, found: "Evaluation") -> None:
    """Draw a heat map for each metric, data set and dtype, and for each matrix of queries against documents.

    Raises:
        InputError: the folder cannot be written.
    """
    from ese_deploy.report import heat_map

    def draw(
        name: str,
        cells: Mapping[tuple[str, str], float],
        title: str,
        axes: tuple[str, str],
        notes: Mapping[tuple[str, str], str],
    ) -> None:
        for kind in ("png", "svg"):
            heat_map(folder / f"{name.replace(' ', '-')}.{kind}", cells, title, *axes, notes=notes)

    with explain_os_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for (metric, data), values in _tables(found).items():
        for dtype in dict.fromkeys(target.dtype for target in values):
            of_dtype = {target: quality for target, quality in values.items() if target.dtype == dtype}
            cells = {(str(one.depth), str(one.dim)): quality.value * 100 for one, quality in of_dtype.items()}
            notes = {(str(one.depth), str(one.dim)): _note(quality) for one, quality in of_dtype.items()}
            first = next(iter(of_dtype.values()))
            ends = "; ±: 95% interval" if first.interval else ""
            title = f"{METRIC_WORDS[metric]}, x 100\n{data}, {first.n} {_unit(metric)}, {dtype}{ends}"
            axes = ("depth (layers that run)", "dimensions that are kept")
            draw(f"{data}.{metric}.{dtype}", cells, title, axes, notes)
    for (data, dim), pairs in _by_matrix(found.asymmetric).items():
        matrix = {(str(cell.query), str(cell.document)): cell.score.ndcg_at_10 * 100 for cell in pairs}
        title = f"{METRIC_WORDS['ndcg_at_10']}, x 100\n{data}, {dim} dimensions"
        axes = ("depth of the queries (layers)", "depth of the documents (layers)")
        draw(f"{data}.asymmetric.k{dim:03d}", matrix, title, axes, {})


def _note(figure: Quality) -> str:
    half = _half_interval(figure)
    return "" if half is None else f"±{half:.1f}"
