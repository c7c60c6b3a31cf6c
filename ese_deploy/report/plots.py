"""Plots as PNG or SVG, in colours for light and dark pages."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.system.install import install_hint

__all__ = ["INK", "Front", "figure_of", "heat_map", "pareto_plot"]

# Contrast with white and with a near-black page is above 4 for each.
INK = "#757b84"
_DOT, _CHOSEN, _OUT = "#2f81f7", "#d9730d", "#8b949e"
_KINDS = (".png", ".svg")


@dataclass(frozen=True)
class Front:
    """Points for :func:`pareto_plot`.

    Attributes:
        names: name of each point.
        x: cost of each, less is better.
        y: quality of each, more is better.
        front: names of the points on the Pareto front.
        fitting: names of the points within all budgets.
        chosen: name of the answer, or an empty string.
    """

    names: Sequence[str]
    x: Sequence[float]
    y: Sequence[float]
    front: frozenset[str]
    fitting: frozenset[str]
    chosen: str


def heat_map(
    path: Path,
    values: Mapping[tuple[str, str], float],
    title: str,
    rows: str,
    columns: str,
    notes: Mapping[tuple[str, str], str] | None = None,
) -> None:
    """Draw a matrix of numbers as coloured cells.

    Args:
        path: a ``.png`` or ``.svg`` file.
        values: number for each (row, column) label, in order of appearance; a missing cell stays empty.
        title: title of the plot.
        rows: label of the rows.
        columns: label of the columns.
        notes: a second line of each cell, in small type.

    Raises:
        InputError: the kind of file is unknown, or it cannot be written.
    """
    left = list(dict.fromkeys(row for row, _ in values))
    bottom = list(dict.fromkeys(column for _, column in values))
    low, high = min(values.values()), max(values.values())
    # At least as wide as the title.
    size = (max(1.7 + 0.78 * len(bottom), 0.6 + 0.08 * max(map(len, title.splitlines()))), 1.5 + 0.5 * len(left))
    with figure_of(path, size) as (figure, axes):
        import matplotlib

        colours = matplotlib.colormaps["viridis"]
        for (row, column), value in values.items():
            shade = 0.12 + 0.88 * ((value - low) / (high - low) if high > low else 1.0)
            x, y = bottom.index(column), left.index(row)
            axes.add_patch(matplotlib.patches.Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colours(shade), lw=0))
            ink = "#101418" if shade > 0.5 else "#ffffff"
            note = (notes or {}).get((row, column), "")
            axes.text(x, y - 0.14 * bool(note), f"{value:.1f}", ha="center", va="center", color=ink, fontsize=10)
            if note:
                axes.text(x, y + 0.24, note, ha="center", va="center", color=ink, fontsize=7)
        axes.set_xlim(-0.5, len(bottom) - 0.5)
        axes.set_ylim(len(left) - 0.5, -0.5)
        axes.set_xticks(range(len(bottom)), bottom)
        axes.set_yticks(range(len(left)), left)
        axes.set_xlabel(columns)
        axes.set_ylabel(rows)
        figure.suptitle(title, color=INK, fontsize=11)


def pareto_plot(path: Path, points: Front, title: str, x: str, y: str) -> None:
    """Draw quality over cost, the Pareto front as a line, with the chosen target marked.

    Args:
        path: a ``.png`` or ``.svg`` file.
        points: what to draw.
        title: title of the plot.
        x: label of the cost, with its unit.
        y: label of the quality.

    Raises:
        InputError: the kind of file is unknown, or it cannot be written.
    """
    with figure_of(path, (7.2, 4.6)) as (figure, axes):
        order = sorted(zip(points.x, points.y, points.names, strict=True))
        front = [(a, b) for a, b, name in order if name in points.front]
        axes.plot(*zip(*front, strict=True), color=_DOT, lw=1.4, alpha=0.7, zorder=1, label="Pareto front")
        groups = (
            ("outside the budgets", _OUT, "o", [p for p in order if p[2] not in points.fitting]),
            ("within the budgets", _DOT, "o", [p for p in order if p[2] in points.fitting and p[2] != points.chosen]),
            ("chosen", _CHOSEN, "D", [p for p in order if p[2] == points.chosen]),
        )
        for label, colour, marker, members in groups:
            if members:
                xs, ys, _ = zip(*members, strict=True)
                axes.scatter(xs, ys, color=colour, marker=marker, s=42 if marker == "o" else 70, label=label, zorder=2)
        named: list[tuple[float, float]] = []
        wide, high = (max(max(values) - min(values), 1e-9) for values in (points.x, points.y))
        # From the best down; of points that nearly coincide one is labelled. Above and left of the front is room.
        for a, b, name in sorted(order, key=lambda point: (point[2] != points.chosen, -point[1])):
            free = all(abs(a - x) > 0.09 * wide or abs(b - y) > 0.05 * high for x, y in named)
            if name == points.chosen or (name in points.front and free):
                axes.annotate(name, (a, b), (-5, 6), textcoords="offset points", ha="right", color=INK, fontsize=9)
                named.append((a, b))
        axes.grid(color=INK, alpha=0.25, lw=0.6)
        axes.margins(x=0.1)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        legend = axes.legend(frameon=False, fontsize=9, loc="lower right")
        for text in legend.get_texts():
            text.set_color(INK)
        figure.suptitle(title, color=INK, fontsize=11)


@contextmanager
def figure_of(path: Path, size: tuple[float, float], text: str = "path") -> Iterator[tuple[Any, Any]]:
    """A figure without a background, saved at the end of the block; byte for byte the same for the same numbers.

    Args:
        path: a ``.png`` or ``.svg`` file.
        size: width and height in inches.
        text: text in an SVG: ``path`` draws it as shapes, ``none`` leaves it as text in the font of the page.

    Yields:
        A matplotlib figure and its axes.

    Raises:
        InputError: the kind of file is unknown, it cannot be written, or matplotlib is missing.
    """
    if path.suffix not in _KINDS:
        raise InputError(f"Cannot write the plot {path}: choose a .png or .svg file.")
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise InputError(f"Plots need {error.name}. {install_hint('evaluate')}") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "ese-deploy", "svg.fonttype": text}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.tick_params(colors=INK, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_color(INK)
        yield figure, axes
        with write_atomic(path) as file:
            kind = path.suffix.removeprefix(".")
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(file, format=kind, dpi=160, transparent=True, metadata=metadata)
