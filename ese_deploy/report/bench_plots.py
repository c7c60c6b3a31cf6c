"""The plots of a throughput report."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.bench.results import Group, Results, Row, reference_row
from ese_deploy.bench.timing import ratio
from ese_deploy.bundle.metrics import AGREEMENT, RETRIEVAL_METRICS, STS_METRICS
from ese_deploy.report.analysis import baseline_ratios, depth_groups, main_group, main_quality
from ese_deploy.report.plots import INK, figure_of

__all__ = ["PLOTS", "Plot", "draw"]

_SIZE = (4.5, 3.4)
# Each has a contrast of at least 3 with white and with a near-black page.
_COLOURS = ("#2f81f7", "#d9730d", "#2a9d4e", "#a06be8", "#e5534b", "#178f9e", "#c2569b", "#8a7a2b", "#8b949e")
_OWN = _COLOURS[0]
_MARKS = {"fp32": "o", "fp16": "s", "bf16": "D", "int8": "^", "int8-fp16": "v"}


_METRICS = {
    STS_METRICS[0]: "similarity (Spearman)",
    RETRIEVAL_METRICS[0]: "retrieval (nDCG@10)",
    AGREEMENT: "agreement with the full model",
}


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        key: a name for files and links.
        caption: how to read it.
        paint: draws on axes; returns False where the results contain nothing to draw.
        height: inches.
    """

    key: str
    title: str
    caption: str
    paint: Callable[[Any, Results], bool]
    height: Callable[[Results], float] = lambda _: _SIZE[1]


def draw(path: Path, plot: Plot, results: Results, text: str = "path") -> bool:
    """Draw a plot into a ``.png`` or ``.svg`` file.

    Returns:
        False where the results contain nothing to draw; the file then shows empty axes.

    Raises:
        InputError: the file cannot be written.
    """
    with figure_of(path, (_SIZE[0], plot.height(results)), text) as (figure, axes):
        painted = plot.paint(axes, results)
        legend = axes.get_legend()
        for item in legend.get_texts() if legend else ():
            item.set_color(INK)
        axes.set_axisbelow(True)
        del figure
    return painted


def _front(axes: Any, results: Results) -> bool:
    """Quality over throughput, the Pareto front as a line."""
    group = _widest_group(results)
    if group is None:
        return False
    texts, points, figures = results.texts[group.length].texts, [], main_quality(results)
    for row in group.rows:
        quality = figures.get(row.target)
        if quality and not row.is_baseline:
            points.append((row.timing.rate(texts), quality.value, row))
    if not points:
        return False
    front, best = [], -1.0
    for rate, value, row in sorted(points, key=lambda point: (-point[0], -point[1])):
        if value > best:
            front.append((rate, value, row))
            best = value
    axes.plot([p[0] for p in front], [p[1] for p in front], color=_OWN, lw=1.3, alpha=0.6, label="Pareto front")
    for dtype in dict.fromkeys(row.dtype for _, _, row in points):
        xs, ys = zip(*[(x, y) for x, y, row in points if row.dtype == dtype], strict=True)
        axes.scatter(xs, ys, color=_OWN, marker=_MARKS.get(dtype, "o"), s=26, label=f"ese-deploy {dtype}", zorder=3)
    full = figures.get(f"{results.depth}x{results.width}")
    rates = [row.timing.rate(texts) for row in _fp32_baselines(results, group)]
    if full and rates:
        label = "baselines, full model"
        axes.scatter(rates, [full.value] * len(rates), marker="|", s=90, color=_COLOURS[1], label=label, zorder=2)
    labelled: list[tuple[float, float]] = []
    for rate, value, row in front:
        if any(other / rate < 1.3 and abs(other_value - value) < 0.02 for other, other_value in labelled):
            continue  # the labels would overlap
        labelled.append((rate, value))
        axes.annotate(row.size, (rate, value), (4, 4), textcoords="offset points", color=INK, fontsize=8)
    axes.set_xscale("log")
    _plain(axes.xaxis)
    metric = next(iter(figures.values()))
    _label(axes, f"{group.length} texts per second", f"{_METRICS[metric.metric]}, {metric.data}")
    axes.margins(x=0.15, y=0.12)
    _legend_below(axes, _SIZE[1], 2)
    return True


def _depth(axes: Any, results: Results) -> bool:
    """Throughput of each depth relative to the full model, and the ideal."""
    depths: list[int] = []
    colours = iter(_COLOURS)
    for group in _most_threads(depth_groups(results)):
        reference = reference_row(group, results)
        rows = [row for row in group.rows if reference and _series(row) == _series(reference)]
        if reference is None or len(rows) < 2:
            continue
        middle = {row.depth: ratio(row.timing, reference.timing).value for row in rows}
        depths += middle
        xs = sorted(middle)
        axes.plot(xs, [middle[x] for x in xs], marker="o", ms=4, lw=1.5, color=next(colours), label=f"{group.length}")
    if not depths:
        return False
    xs = sorted(set(depths))
    ideal = [results.depth / x for x in xs]
    axes.plot(xs, ideal, ls=(0, (4, 3)), lw=1.2, color=INK, label="ideal: layers only", zorder=1)
    axes.set_xticks(xs)
    _label(axes, "depth (layers)", "throughput relative to the full model")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return True


def _lengths(axes: Any, results: Results) -> bool:
    """Tokens per second of the full model over the length of texts, for each engine and baseline."""
    lines: dict[str, list[tuple[int, float]]] = {}
    baselines: set[str] = set()
    for group in _most_threads(depth_groups(results)):
        texts = results.texts[group.length]
        for row in group.rows:
            if row.depth == results.depth and row.counted and (group.length != "mixed" or len(results.texts) == 1):
                name = f"{row.name} {row.dtype}" if row.is_baseline else f"{row.name} {row.engine} {row.dtype}"
                baselines.update([name] if row.is_baseline else [])
                lines.setdefault(name, []).append((texts.median, row.timing.rate(texts.tokens)))
    if not lines:
        return False
    order = sorted(lines, key=lambda name: -max(rate for _, rate in lines[name]))
    others = [name for name in order if name in baselines]
    styles = dict(zip((name for name in order if name not in baselines), itertools.cycle(("-", "--", ":", "-."))))
    for name in order:
        own = name not in baselines
        colour = _OWN if own else _COLOURS[1 + others.index(name) % (len(_COLOURS) - 1)]
        xs, ys = zip(*sorted(lines[name]), strict=True)
        width, style = (2.2, styles[name]) if own else (1.2, "-")
        axes.plot(xs, ys, marker="o", ms=4, lw=width, ls=style, color=colour, label=name, zorder=3 if own else 2)
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.set_xticks(sorted({x for line in lines.values() for x, _ in line}))
    axes.set_ylim(bottom=0)
    _label(axes, "length of the median text (tokens)", "tokens per second")
    _legend_below(axes, _SIZE[1], 2)
    return True


def _baselines(axes: Any, results: Results) -> bool:
    """The full model's speed relative to every baseline, with quartiles; left of 1 the baseline is faster."""
    found = [one for one in baseline_ratios(results) if one.group.kind == "throughput"]
    if not found:
        return False
    names = list(dict.fromkeys(f"{one.baseline.name} {one.baseline.dtype}" for one in found))
    lengths = list(dict.fromkeys(one.group.length for one in found))
    for one in found:
        step = (lengths.index(one.group.length) - (len(lengths) - 1) / 2) * 0.17
        y = names.index(f"{one.baseline.name} {one.baseline.dtype}") + step
        colour = _COLOURS[lengths.index(one.group.length)]
        axes.plot([one.ratio.low, one.ratio.high], [y, y], color=colour, lw=2, alpha=0.6, solid_capstyle="round")
        axes.plot([one.ratio.value], [y], marker="o", ms=4.5, color=colour, ls="")
    for position, length in enumerate(lengths):
        axes.plot([], [], marker="o", ms=4.5, ls="", color=_COLOURS[position], label=length)
    axes.axvline(1, color=INK, lw=1, ls=(0, (4, 3)))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain(axes.xaxis)
    _label(axes, "speed relative to the baseline", "")
    _legend_below(axes, _baselines_height(results), 2)
    return True


def _latency(axes: Any, results: Results) -> bool:
    """p50, p95 and p99 of one text."""
    groups = _most_threads([group for group in results.groups if group.kind == "latency"])
    rows = [row for group in groups for row in group.rows if row.counted]
    if not rows:
        return False
    for y, row in enumerate(rows):
        p50, p95, p99 = (row.timing.percentiles[name] * 1e3 for name in ("p50", "p95", "p99"))
        colour = _COLOURS[1] if row.is_baseline else _OWN
        axes.plot([p50, p99], [y, y], color=colour, lw=2, alpha=0.5, solid_capstyle="round")
        for value, mark in ((p50, "o"), (p95, "|"), (p99, ">")):
            axes.plot([value], [y], marker=mark, ms=5 if mark != "|" else 8, color=colour, ls="")
    for mark, name in (("o", "p50"), ("|", "p95"), (">", "p99")):
        axes.plot([], [], marker=mark, ls="", color=INK, label=name)
    axes.set_yticks(range(len(rows)), [_name(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    _plain(axes.xaxis)
    _label(axes, "latency (milliseconds)", "")
    axes.legend(frameon=False, fontsize=8)
    return True


def _memory(axes: Any, results: Results) -> bool:
    """Size on disk, and memory of a process."""
    if not results.costs:
        return False
    bars = {
        "size on disk": [cost.bytes for cost in results.costs],
        "memory": [cost.growth_bytes or 0 for cost in results.costs],
        "peak memory": [cost.peak_bytes or 0 for cost in results.costs],
    }
    for position, (name, sizes) in enumerate(bars.items()):
        ys = [y + (position - 1) * 0.26 for y in range(len(sizes))]
        axes.barh(ys, [size / 1e6 for size in sizes], height=0.22, color=_COLOURS[position], label=name)
    names = [f"{cost.target} {cost.engine}" if len(results.engines) > 1 else cost.target for cost in results.costs]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    _label(axes, "size (megabytes)", "")
    axes.legend(
        frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.45, -0.6 / _costs_height(results)), ncol=3
    )
    return True


def _name(row: Row) -> str:
    return f"{row.name} {row.dtype}" if row.is_baseline else f"{row.size} {row.engine} {row.dtype}"


def _series(row: Row) -> tuple[str, str, str]:
    return (row.name, row.engine, row.dtype)


def _most_threads(groups: Sequence[Group]) -> list[Group]:
    most = max((group.threads for group in groups), default=0)
    return [group for group in groups if group.threads == most]


def _widest_group(results: Results) -> Group | None:
    """The group with every dim, or else that of the most mixed texts."""
    return next((group for group in results.groups if group.study == "dim"), None) or main_group(results)


def _fp32_baselines(results: Results, group: Group) -> list[Row]:
    """Baselines in fp32 on the same texts with the same threads; they run in the group that varies the depth."""
    alike = [one for one in depth_groups(results) if (one.length, one.threads) == (group.length, group.threads)]
    return [row for one in alike[:1] for row in one.rows if row.is_baseline and row.counted and row.dtype == "fp32"]


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=INK, alpha=0.22, lw=0.6)
    axes.tick_params(labelsize=8)


def _legend_below(axes: Any, height: float, columns: int) -> None:
    """Place the legend below the label of the axis."""
    axes.legend(frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.45, -0.58 / height), ncol=columns)


def _plain(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def _rows_height(results: Results) -> float:
    rows = max((len(group.rows) for group in results.groups if group.kind == "latency"), default=6)
    return max(_SIZE[1], 1.0 + 0.24 * rows)


def _baselines_height(results: Results) -> float:
    return max(_SIZE[1], 1.2 + 0.42 * sum(not one.reason for one in results.baselines))


def _costs_height(results: Results) -> float:
    return max(2.4, 1.0 + 0.34 * len(results.costs))


PLOTS = (
    Plot(
        "front",
        "Quality over throughput",
        "Up and to the right is better. No target is better in both than one on the Pareto front.",
        _front,
    ),
    Plot(
        "baselines",
        "Speed relative to baselines",
        "The full model, in the baseline's dtype or else in fp32. Left of 1 the baseline is faster. Bars: quartiles.",
        _baselines,
        _baselines_height,
    ),
    Plot(
        "depth",
        "Throughput over depth",
        "The distance to the ideal is work that does not depend on depth, such as tokenization.",
        _depth,
    ),
    Plot(
        "lengths",
        "Throughput over text length",
        "The full model with all threads, each baseline at its best batch size.",
        _lengths,
    ),
    Plot(
        "latency",
        "Latency of one text",
        "One of the shortest texts at a time, from text to vector: median, 95th and 99th percentile of all calls.",
        _latency,
        _rows_height,
    ),
    Plot(
        "memory",
        "Size and memory",
        "Memory: anonymous memory that a target adds to a process; its peak with a batch of 32 texts.",
        _memory,
        _costs_height,
    ),
)
