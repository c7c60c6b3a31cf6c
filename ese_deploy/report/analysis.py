"""What follows from the results of a bench: ratios to peers, time over depth, shares of the limit, agreement."""

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ese_deploy.bench.results import OWN, Group, Limit, Ratio, Results, Row, ratio, reference_row
from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import AGREEMENT, RETRIEVAL_METRICS, STS_METRICS

__all__ = [
    "AGREE",
    "Agreement",
    "DepthLine",
    "PeerRatio",
    "agreement",
    "depth_groups",
    "depth_lines",
    "depth_of",
    "main_group",
    "main_quality",
    "peer_ratios",
    "share_of_limit",
]

# Two runs of one machine agree on a ratio when they differ by no more than this.
AGREE = 0.10

_MIXED = ("mixed", "file", "sentence", "passage", "query")


@dataclass(frozen=True)
class PeerRatio:
    """The full model here against a peer, in one group.

    Attributes:
        group: where both ran.
        peer: the peer's row.
        own: the full model here: in the peer's dtype where it was timed in that, on the engine that was fastest; beside
            a peer of fp32, or of another dtype, in fp32 on the default engine.
        ratio: how many times as fast it is here; above 1 it wins.
    """

    group: Group
    peer: Row
    own: Row
    ratio: Ratio


@dataclass(frozen=True)
class DepthLine:
    """Whether time grows with depth along a line.

    Attributes:
        group: where the depths ran.
        engine: the engine.
        dtype: the dtype.
        slope: seconds of one block more.
        start: seconds of what is left at depth 0: tokens, embeddings, pooling.
        deviations: for each depth between the ends, time over the line through the ends, minus 1.
    """

    group: Group
    engine: str
    dtype: str
    slope: float
    start: float
    deviations: dict[int, float]

    @property
    def worst(self) -> float:
        """The largest deviation, with its sign; 0 where there is no depth between the ends."""
        return max(self.deviations.values(), key=abs, default=0.0)


@dataclass(frozen=True)
class Agreement:
    """How well two runs agree on the ratio of each row to the full model.

    Attributes:
        ratios: how many rows both have.
        outside: of those, the rows whose ratios differ by more than 10%, and by how much.
        noisy: of the rows outside, how many were marked as noisy in either run.
    """

    ratios: int
    outside: dict[str, float]
    noisy: int


def depth_groups(results: Results, kind: str = "throughput") -> list[Group]:
    """The groups that vary the depth, as they were timed."""
    return [group for group in results.groups if group.kind == kind and group.study == "depth"]


def main_group(results: Results) -> Group | None:
    """The most mixed texts that every depth ran on, with the most threads."""
    groups = depth_groups(results)
    most = max((group.threads for group in groups), default=0)
    for length in _MIXED:
        for group in groups:
            if (group.length, group.threads) == (length, most):
                return group
    return None


def peer_ratios(results: Results) -> list[PeerRatio]:
    """The full model against every peer whose vectors count, group by group."""
    found = []
    for group in results.groups:
        reference = reference_row(group, results)
        if reference is None:
            continue
        for peer in group.rows:
            if peer.who != OWN and peer.counted:
                own = _rival(group, peer, reference)
                found.append(PeerRatio(group, peer, own, ratio(own, peer)))
    return found


def _rival(group: Group, peer: Row, reference: Row) -> Row:
    """What of ours a peer is compared with."""
    rows = [row for row in group.rows if (row.who, row.target, row.dtype) == (OWN, reference.target, peer.dtype)]
    if peer.dtype == reference.dtype or not rows:
        return reference
    return min(rows, key=lambda row: statistics.median(row.seconds))


def depth_lines(results: Results) -> list[DepthLine]:
    """The line through the least and the greatest depth of every group, engine and dtype, where depths lie between."""
    found = []
    for group in results.groups:
        if group.study != "depth":
            continue
        for (engine, dtype), rows in _own_rows(group):
            times = {depth_of(row): statistics.median(row.seconds) for row in rows}
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


def share_of_limit(row: Row, group: Group) -> float | None:
    """A row's rate as a share of the machine's own, round by round; None where the limit of its dtype is not known."""
    limit = _limit(row, group)
    if limit is None:
        return None
    rates = [row.operations / seconds for seconds in row.seconds]
    return statistics.median(rate / most for rate, most in zip(rates, limit.rates, strict=False))


def main_quality(results: Results) -> dict[str, Quality]:
    """The figure that stands for each target, of all the same metric and data; a target without it is left out.

    It is the one that most targets have, and of several labelled data before agreement.
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
    """Compare two runs, row by row, by each row's ratio to the full model in fp32."""
    left, right = _ratios(first), _ratios(second)
    shared = left.keys() & right.keys()
    outside, noisy = {}, 0
    for key in sorted(shared):
        apart = right[key].value / left[key].value - 1
        if max(apart, 1 / (1 + apart) - 1) > AGREE:
            outside[" ".join(str(part) for part in key if part)] = apart
            noisy += left[key].noisy or right[key].noisy
    return Agreement(len(shared), outside, noisy)


def depth_of(row: Row) -> int:
    """Blocks of a row's target."""
    return int(row.target.partition("x")[0])


def _own_rows(group: Group) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in group.rows:
        if row.who == OWN:
            found.setdefault((row.engine, row.dtype), []).append(row)
    yield from found.items()


def _limit(row: Row, group: Group) -> Limit | None:
    """A GPU goes by one name in an engine and by another in PyTorch, so that CPU or not is all that must agree."""
    on_cpu = row.device == "cpu"
    alike = [one for one in group.limits if one.dtype == row.dtype and (one.device == "cpu") == on_cpu]
    return next((one for one in alike if one.rates), None)


def _ratios(results: Results) -> dict[tuple[object, ...], Ratio]:
    found: dict[tuple[object, ...], Ratio] = {}
    for group in results.groups:
        reference = reference_row(group, results)
        if reference is None:
            continue
        rows = [row for row in group.rows if row is not reference and row.counted]
        found.update({(*group.key, *row.key): ratio(row, reference) for row in rows})
    return found
