"""Quality against latency as an SVG of a page: every point can be selected, those on the Pareto front are labelled."""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from ese_deploy.report.answer import Answer, Point
from ese_deploy.report.tables import number

__all__ = ["chart"]

_WIDE, _HIGH = 460, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 24, 52
# Room of a character and of a line.
_CHARACTER, _LINE = 7.5, 15.0


def chart(found: Answer, key: str) -> Markup:
    """The chart of an answer; empty without points.

    Args:
        found: the answer.
        key: a name for the ids of the page.
    """
    points = found.points
    if not points:
        return Markup()
    times, values = [point.milliseconds for point in points], [point.quality.value * 100 for point in points]
    across, down = _Axis(times, _LEFT, _WIDE - _RIGHT), _Axis(values, _HIGH - _BOTTOM, _TOP)
    chosen = {one.point.target for one in found.recommendations if one.point}
    parts = [*_grid(across, down), *_titles(found)]
    front = [point for point in points if point.front]
    path = " ".join(f"{across(p.milliseconds):.1f},{down(p.quality.value * 100):.1f}" for p in front)
    parts.append(f'<polyline class="line" points="{path}"/>')
    labels = _labels(points, chosen, across, down)
    for point in points:
        x, y = across(point.milliseconds), down(point.quality.value * 100)
        kind = "chosen" if point.target in chosen else "front" if point.front else "other"
        words = escape(f"{point.target}: {point.words}")
        label = ""
        if point.target in labels:
            label_x, anchor = labels[point.target]
            label = f'<text x="{label_x:.1f}" y="{y - 8:.1f}" text-anchor="{anchor}">{escape(point.target)}</text>'
        # The transparent circle is as large as a finger.
        parts.append(
            f'<g class="point {kind}" tabindex="0" role="button" aria-label="{words}"><title>{words}</title>'
            f'<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="12"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if kind == "chosen" else 4.5}"/>{label}</g>'
        )
    name = escape(f"{found.quality} against {found.latency}")
    body = Markup("").join(Markup(part) for part in parts)
    return Markup(
        f'<svg id="{key}-chart" class="quality-latency" viewBox="0 0 {_WIDE} {_HIGH}" role="group" '
        f'aria-label="{name}">{body}</svg>'
    )


class _Axis:
    """Places values on an axis, with room at both ends and round ticks; logarithmic beyond a factor of 8.

    Args:
        values: what to show.
        start: coordinate of the least.
        end: coordinate of the greatest.
    """

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        self._log = low > 0 and high / low > 8
        first, last = (math.log(low), math.log(high)) if self._log else (low, high)
        room = 0.1 * (last - first) or abs(last) * 0.1 or 1.0
        self._first, self._last, self._start, self._end = first - room, last + room, start, end
        self.ticks = [tick for tick in _ticks(low, high, self._log) if start != end]

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        place = math.log(value) if self._log else value
        return self._start + (self._end - self._start) * (place - self._first) / (self._last - self._first)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    if high == low:
        return [low]
    rough = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _grid(across: _Axis, down: _Axis) -> list[str]:
    parts = []
    for tick in across.ticks:
        x = across(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HIGH - _BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_HIGH - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in down.ticks:
        y = down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    return parts


def _titles(found: Answer) -> list[str]:
    middle = (_TOP + _HIGH - _BOTTOM) / 2
    return [
        f'<text class="axis" x="{(_LEFT + _WIDE - _RIGHT) / 2}" y="{_HIGH - 14}" text-anchor="middle">'
        f"{escape(found.latency)}</text>",
        f'<text class="axis" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        "Quality x 100</text>",
    ]


def _labels(points: Sequence[Point], chosen: set[str], across: _Axis, down: _Axis) -> dict[str, tuple[float, str]]:
    """Where labels fit: coordinate and anchor of each, first of what is recommended, then from the best down."""
    found: dict[str, tuple[float, str]] = {}
    taken: list[tuple[float, float, float]] = []
    corners = [(across(point.milliseconds), down(point.quality.value * 100)) for point in points]
    for point in sorted(points, key=lambda one: (one.target not in chosen, not one.front, -one.quality.value)):
        x, y = across(point.milliseconds), down(point.quality.value * 100)
        wide = _CHARACTER * len(point.target)
        start = x - 4 if x - wide < _LEFT else x + 4 - wide
        free = all(start > right or start + wide < left or abs(y - b) > _LINE for left, right, b in taken)
        # A label stands above its point, and covers no other.
        free = free and not any(start < a < start + wide and y - 22 < b < y - 4 for a, b in corners)
        if free or point.target in chosen:
            taken.append((start, start + wide, y))
            found[point.target] = (x - 4, "start") if start == x - 4 else (x + 4, "end")
    return found
