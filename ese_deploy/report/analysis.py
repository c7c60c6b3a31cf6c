"""What follows from the results of a bench: ratios to baselines, time over depth, share of peak GEMM, agreement."""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ese_deploy.bench.results import Group, Kind, Results, Row, reference_row
from ese_deploy.bench.timing import Ratio, ratio
from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import AGREEMENT, RETRIEVAL_METRICS, STS_METRICS

__all__ = [
    "AGREE",
    "Agreement",
    "BaselineRatio",
    "DepthLine",
    "agreement",
    "baseline_ratios",
    "depth_groups",
    "depth_lines",
    "main_group",
    "main_quality",
    "share_of_peak",
]

AGREE = 0.10
"""Two runs on one machine agree on a ratio when they differ by no more than this."""

_PREFERRED = ("mixed", "file", "sentence", "passage", "query")


@dataclass(frozen=True)
class BaselineRatio:
    """The bundle's full model compared with a baseline, in one group.

    Attributes:
        own: the bundle's full model: in the baseline's dtype on the fastest engine; in fp32 on the default engine for
            a baseline of fp32, or of a dtype that the bundle was not timed in.
        ratio: how many times as fast the bundle is; above 1 it is faster.
    """

    group: Group
    baseline: Row
    own: Row
    ratio: Ratio


@dataclass(frozen=True)
class DepthLine:
    """Whether time grows linearly with depth.

    Attributes:
        slope: seconds of one more layer.
        start: seconds that remain at depth 0: tokenization, embeddings, pooling.
        deviations: for each depth between the least and the greatest, time divided by the line through them, minus 1.
    """

    group: Group
    engine: str
    dtype: str
    slope: float
    start: float
    deviations: dict[int, float]

    @property
    def worst(self) -> tuple[int, float]:
        """Depth and value of the largest deviation."""
        return max(self.deviations.items(), key=lambda item: abs(item[1]))


@dataclass(frozen=True)
class Agreement:
    """How well two runs agree on the ratio of each row to the full model.

    Attributes:
        ratios: rows that both runs contain.
        outside: the rows whose ratios differ by more than 10%, and by how much.
        noisy: of the rows outside, how many are marked as noisy in either run.
    """

    ratios: int
    outside: dict[str, float]
    noisy: int


def depth_groups(results: Results, kind: Kind = "throughput") -> list[Group]:
    """The groups that vary the depth."""
    return [group for group in results.groups if group.kind == kind and group.study == "depth"]


def main_group(results: Results) -> Group | None:
    """The group for headlines: every depth, the most threads, the most mixed texts."""
    groups = depth_groups(results)
    most = max((group.threads for group in groups), default=0)
    for length in _PREFERRED:
        for group in groups:
            if (group.length, group.threads) == (length, most):
                return group
    return None


def baseline_ratios(results: Results) -> list[BaselineRatio]:
    """The full model compared with every baseline whose vectors count, in every group."""
    found = []
    for group in results.groups:
        reference = reference_row(group, results)
        if reference is None:
            continue
        for row in group.rows:
            if row.is_baseline and row.counted:
                own = _counterpart(group, row, reference)
                found.append(BaselineRatio(group, row, own, ratio(own.timing, row.timing)))
    return found


def _counterpart(group: Group, baseline: Row, reference: Row) -> Row:
    """The row that a baseline is compared with."""
    rows = [row for row in group.rows if not row.is_baseline and row.target == f"{reference.size}:{baseline.dtype}"]
    return min(rows, key=lambda row: row.timing.median) if rows else reference


def depth_lines(results: Results) -> list[DepthLine]:
    """The line through the least and the greatest depth of each group, engine and dtype with depths between them."""
    found = []
    for group in results.groups:
        if group.study != "depth":
            continue
        for (engine, dtype), rows in _own_rows(group):
            times = {row.depth: row.timing.median for row in rows}
            first, last = min(times), max(times)
            if len(times) < 3:
                continue
            slope = (times[last] - times[first]) / (last - first)
            start = times[first] - slope * first
            between = {
                depth: seconds / (start + slope * depth) - 1
                for depth, seconds in sorted(times.items())
                if first < depth < last
            }
            found.append(DepthLine(group, engine, dtype, slope, start, between))
    return found


def share_of_peak(row: Row, group: Group) -> float | None:
    """A row's operations per second as a share of peak GEMM of its dtype, median over rounds; None where unknown."""
    # A GPU has one name in an engine and another in PyTorch, so only CPU or not can be compared.
    on_cpu = row.device == "cpu"
    peaks = [one for one in group.peaks if one.dtype == row.dtype and (one.device == "cpu") == on_cpu and one.rates]
    if not peaks:
        return None
    pairs = zip(row.timing.seconds, peaks[0].rates, strict=False)
    return statistics.median(row.operations / seconds / rate for seconds, rate in pairs)


def main_quality(results: Results) -> dict[str, Quality]:
    """One quality figure for each target, all of the same metric and data; a target without it is left out.

    It is the figure that most targets have; labelled data comes before agreement with the full model.
    """
    order = (STS_METRICS[0], RETRIEVAL_METRICS[0], AGREEMENT)
    every = [figure for figures in results.quality.values() for figure in figures if figure.metric in order]
    counts = Counter((figure.metric, figure.data_sha256) for figure in every)
    if not counts:
        return {}
    main = min(counts, key=lambda key: (-counts[key], order.index(key[0])))
    return {
        target: figure
        for target, figures in results.quality.items()
        for figure in figures
        if (figure.metric, figure.data_sha256) == main
    }


def agreement(first: Results, second: Results) -> Agreement:
    """Compare two runs by each row's ratio to the full model in fp32."""
    left, right = _ratios(first), _ratios(second)
    shared = left.keys() & right.keys()
    outside, noisy = {}, 0
    for key in sorted(shared, key=str):
        apart = right[key].value / left[key].value - 1
        if max(apart, 1 / (1 + apart) - 1) > AGREE:
            outside[" ".join(str(part) for part in key if part is not None)] = apart
            noisy += left[key].noisy or right[key].noisy
    return Agreement(len(shared), outside, noisy)


def _own_rows(group: Group) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in group.rows:
        if not row.is_baseline:
            found.setdefault((row.engine, row.dtype), []).append(row)
    yield from found.items()


def _ratios(results: Results) -> dict[tuple[object, ...], Ratio]:
    found: dict[tuple[object, ...], Ratio] = {}
    for group in results.groups:
        reference = reference_row(group, results)
        if reference is None:
            continue
        rows = [row for row in group.rows if row is not reference and row.counted]
        found.update({(*group.key, *row.key): ratio(row.timing, reference.timing) for row in rows})
    return found
