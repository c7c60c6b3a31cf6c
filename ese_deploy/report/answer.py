"""The answer that a report opens with: a target for each of three budgets, and quality against latency."""

from dataclasses import dataclass, replace

from ese_deploy.bench.results import Group, Results, Row
from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import METRIC_WORDS
from ese_deploy.report.analysis import main_quality
from ese_deploy.report.tables import number

__all__ = ["Answer", "Point", "Recommendation", "answer"]

_BUDGETS = (
    (0.99, "Quality first", "the fastest target with at least 99% of the full model's quality"),
    (0.95, "Balanced", "the fastest target with at least 95%"),
    (0.90, "Speed first", "the fastest target with at least 90%"),
)


@dataclass(frozen=True)
class Point:
    """A target with its quality and latency.

    Attributes:
        target: the target.
        engine: the fastest of the engines that were timed.
        milliseconds: median latency of one text.
        quality: the figure.
        noisy: whether the latency is known less precisely than 5%.
        of: the target whose latency it is, where another prefix of the same depth was timed.
        megabytes: size on disk; None where not measured.
        front: whether no other point is at least as good in both.
    """

    target: str
    engine: str
    milliseconds: float
    quality: Quality
    noisy: bool
    of: str
    megabytes: float | None
    front: bool

    @property
    def words(self) -> str:
        """Quality, latency and size, with what makes them uncertain."""
        noisy = " (noisy)" if self.noisy else ""
        parts = [_quality_words(self.quality), f"{number(self.milliseconds)} ms{noisy} on {self.engine}"]
        parts += [f"{number(self.megabytes)} MB"] if self.megabytes is not None else []
        parts += [f"latency measured at {self.of}"] if self.of else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Recommendation:
    """The target for a budget.

    Attributes:
        name: of the budget.
        rule: what it asks for.
        point: the target; None where none fits.
        times: how many times as fast as the full model; None for the full model itself.
        same: whether the budget before it has the same target.
    """

    name: str
    rule: str
    point: Point | None
    times: float | None
    same: bool = False


@dataclass(frozen=True)
class Answer:
    """What a report opens with.

    Attributes:
        recommendations: one for each budget.
        points: of the chart, the fastest first.
        quality: what quality is, in words.
        latency: what latency is, in words.
        load: what other processes did meanwhile; empty where that is not known.
        lacking: why there is no answer, and what to do; empty where there is one.
    """

    recommendations: list[Recommendation]
    points: list[Point]
    quality: str
    latency: str
    load: str
    lacking: str = ""


def answer(results: Results) -> Answer:
    """The answer that the results of a bench give."""
    groups = [group for group in results.groups if group.kind == "latency"]
    figures = main_quality(results)
    if not groups or not figures:
        what = "Latency was not measured." if not groups else "The bundle has no quality figures."
        advice = "Run: ese-deploy bench" if not groups else "Run: ese-deploy evaluate BUNDLE --save"
        return Answer([], [], "", "", "", f"{what} {advice}")
    group = max(groups, key=lambda one: one.threads)
    points = _points(results, group, figures)
    figure = next(iter(figures.values()))
    chosen: list[Recommendation] = []
    for budget in _BUDGETS:
        before = chosen[-1].point if chosen else None
        chosen.append(_recommend(*budget, points, f"{results.depth}x{results.width}", before))
    return Answer(
        chosen,
        points,
        f"{METRIC_WORDS[figure.metric]}; {figure.data}, n = {figure.n}",
        f"Latency of one {group.length} text, median, {group.threads} threads (ms)",
        "" if group.other_load is None else f"Other processes used {group.other_load:.2f} cores while it was measured.",
    )


def _points(results: Results, group: Group, figures: dict[str, Quality]) -> list[Point]:
    rows = {(row.target, row.engine): row for row in group.rows if not row.is_baseline}
    engines = dict.fromkeys(row.engine for row in rows.values())
    sizes = {(cost.target, cost.engine): cost.bytes / 1e6 for cost in results.costs}
    found = []
    for target, figure in figures.items():
        timed = [row for engine in engines if (row := _timed(target, engine, rows)) is not None]
        if timed:
            row = min(timed, key=lambda one: one.timing.percentiles["p50"])
            of = row.target if row.target != target else ""
            size = next((one for (name, _), one in sizes.items() if name == target), None)
            time = row.timing.percentiles["p50"] * 1e3
            found.append(Point(target, row.engine, time, figure, row.timing.noisy, of, size, front=False))
    found.sort(key=lambda point: (point.milliseconds, -point.quality.value))
    best, points = float("-inf"), []
    for one in found:
        front = one.quality.value > best
        best = max(best, one.quality.value)
        points.append(replace(one, front=front))
    return points


def _timed(target: str, engine: str, rows: dict[tuple[str, str], Row]) -> Row | None:
    """The row of a target, or of another prefix of its depth and dtype: one session computes them all."""
    own = rows.get((target, engine))
    if own is not None:
        return own
    size, _, dtype = target.partition(":")
    depth = size.partition("x")[0]
    alike = [
        row
        for (_, of), row in rows.items()
        if of == engine and row.dtype == (dtype or "fp32") and str(row.depth) == depth
    ]
    return alike[0] if alike else None


def _recommend(
    share: float, name: str, rule: str, points: list[Point], full: str, before: Point | None
) -> Recommendation:
    fitting = [point for point in points if point.quality.share_of_full >= share]
    best = min(fitting, key=lambda point: (point.milliseconds, -point.quality.value), default=None)
    whole = next((point for point in points if point.target == full), None)
    times = None if best is None or whole is None or best is whole else whole.milliseconds / best.milliseconds
    return Recommendation(name, rule, best, times, best is not None and best is before)


def _quality_words(quality: Quality) -> str:
    half = ""
    if quality.interval is not None:
        half = f" ±{max(quality.value - quality.interval[0], quality.interval[1] - quality.value) * 100:.1f}"
    share = f"{quality.share_of_full:.0%} of full" if quality.differs else "no difference from full seen"
    if quality.difference == (0.0, 0.0):
        share = "full quality"
    return f"quality {quality.value * 100:.1f}{half} ({share})"
