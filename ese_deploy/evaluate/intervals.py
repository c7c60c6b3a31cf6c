"""Confidence intervals of quality figures: pairs and queries are resampled, the same ones for every target.

The intervals are percentiles of a bootstrap (Efron and Tibshirani, 1993). Each resample holds the same pairs for all
targets, so that the difference between a target and the full model is paired: what is hard for both cancels out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import RETRIEVAL_METRICS, STS_METRICS
from ese_deploy.target import Target

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "Resampled",
    "Resampling",
    "add_intervals",
    "interval_of",
    "resampled_correlations",
    "resampled_means",
    "with_intervals",
]

RESAMPLES = 1000
LEVEL = 0.95
# Numbers in one block of counts: 32 MB.
_BLOCK = 4_000_000

Floats = NDArray[np.float64]
Resampled = Target | str
"""What has figures: a target, or the name of a baseline."""


@dataclass(frozen=True)
class Resampling:
    """Collects the figures of a model's targets under resampled pairs and queries.

    Attributes:
        seed: two models with the same seed and data see the same resamples, so that they can be compared.
        resamples: how many.
        found: for each target, metric and data set the figure of each resample.
    """

    seed: int = 0
    resamples: int = RESAMPLES
    found: dict[tuple[Resampled, str, str], Floats] = field(default_factory=dict)

    def add_pairs(self, target: Resampled, data: str, cosines: Floats, scores: Floats, subsets: list[str]) -> None:
        """Resample pairs.

        Args:
            target: the target.
            data: hash of the data set.
            cosines: of the pairs, [n].
            scores: of the pairs, [n].
            subsets: the part of the data of each pair, or empty.
        """
        spearman, pearson = resampled_correlations(cosines, scores, self.seed, self.resamples)
        values = {STS_METRICS[0]: spearman, STS_METRICS[1]: pearson}
        if subsets:
            # Each subset is resampled within itself, as its mean counts once.
            names = np.array(subsets)
            parts = [
                resampled_correlations(cosines[rows], scores[rows], self.seed, self.resamples)
                for name in dict.fromkeys(subsets)
                if np.ptp(scores[rows := np.flatnonzero(names == name)]) > 0 and np.ptp(cosines[rows]) > 0
            ]
            if parts:
                values[STS_METRICS[2]] = _mean([spearman for spearman, _ in parts])
                values[STS_METRICS[3]] = _mean([pearson for _, pearson in parts])
        self.found.update({(target, metric, data): value for metric, value in values.items()})

    def add_queries(self, target: Resampled, data: str, scores: Floats) -> None:
        """Resample queries.

        Args:
            target: the target.
            data: hash of the collection.
            scores: of each query by each of ``RETRIEVAL_METRICS``, [q, 4].
        """
        means = resampled_means(scores, self.seed, self.resamples)
        self.found.update({(target, metric, data): means[:, place] for place, metric in enumerate(RETRIEVAL_METRICS)})

    def of(self, target: Resampled, figure: Quality) -> Floats | None:
        """The figure in each resample; None where it was not resampled."""
        return self.found.get((target, figure.metric, figure.data_sha256))


def with_intervals(
    figures: Mapping[Target, Sequence[Quality]], found: Resampling, full: Target, full_found: Resampling
) -> dict[Target, list[Quality]]:
    """Add to each figure its interval, and that of its difference from the full model's figure.

    Args:
        figures: for each target its figures.
        found: the resamples of their model.
        full: the full model's target.
        full_found: the resamples of the full model, which can be another one.
    """
    return {
        target: [add_intervals(one, target, found, full, full_found) for one in of] for target, of in figures.items()
    }


def add_intervals(
    figure: Quality, target: Resampled, found: Resampling, full: Target, full_found: Resampling
) -> Quality:
    """A figure with its interval, and that of its difference from the full model's figure."""
    own, whole = found.of(target, figure), full_found.of(full, figure)
    if own is None:
        return figure
    difference = None if whole is None else interval_of(own - whole)
    return msgspec.structs.replace(figure, interval=interval_of(own), difference=difference)


def interval_of(values: Floats) -> tuple[float, float] | None:
    """The 95% percentile interval of resampled figures, without those that are undefined; None where all are."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return round(float(low), 6), round(float(high), 6)


def resampled_correlations(cosines: Floats, scores: Floats, seed: int, resamples: int) -> tuple[Floats, Floats]:
    """Spearman's and Pearson's correlation of each resample of pairs, each [resamples]; NaN where one is undefined."""
    spearman, pearson = [], []
    ranks = _Ranks(cosines), _Ranks(scores)
    x, y = cosines - cosines.mean(), scores - scores.mean()
    for counts in _counts(len(scores), seed, resamples):
        spearman.append(_correlations(counts, *(ranked.under(counts) for ranked in ranks)))
        pearson.append(_correlations(counts, x, y))
    return np.concatenate(spearman), np.concatenate(pearson)


def resampled_means(scores: Floats, seed: int, resamples: int) -> Floats:
    """The means over each resample of rows, [resamples, columns] of [rows, columns]."""
    return np.concatenate([counts @ scores / len(scores) for counts in _counts(len(scores), seed, resamples)])


def _counts(count: int, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each of ``count`` rows stands in each resample, in blocks [some resamples, count]."""
    random = np.random.default_rng([seed, count])
    left = resamples
    while left:
        here = min(left, max(1, _BLOCK // count))
        drawn = random.integers(count, size=(here, count)) + count * np.arange(here)[:, None]
        yield np.bincount(drawn.ravel(), minlength=here * count).reshape(here, count).astype(np.float64)
        left -= here


class _Ranks:
    """Ranks of values in samples that hold each value several times, without sorting again.

    Args:
        values: [n].
    """

    def __init__(self, values: Floats) -> None:
        distinct, self._group = np.unique(values, return_inverse=True)
        self._order = np.argsort(self._group, kind="stable")
        self._starts = np.searchsorted(self._group[self._order], np.arange(len(distinct)))

    def under(self, counts: Floats) -> Floats:
        """The mean rank of each value where value i stands ``counts[:, i]`` times, [resamples, n]."""
        sizes = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        ends = np.cumsum(sizes, axis=1)
        ranks: Floats = (ends - (sizes - 1) / 2)[:, self._group]
        return ranks


def _correlations(counts: Floats, x: Floats, y: Floats) -> Floats:
    """Pearson's correlation of each resample of [n] or [resamples, n]."""
    total = counts.sum(1)
    dx = x - ((counts * x).sum(1) / total)[:, None]
    dy = y - ((counts * y).sum(1) / total)[:, None]
    weighted = counts * dx
    norms = np.sqrt((weighted * dx).sum(1) * (counts * dy * dy).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = (weighted * dy).sum(1) / norms
    return found


def _mean(parts: list[Floats]) -> Floats:
    """The mean of the parts that are defined, for each resample."""
    stacked = np.stack(parts)
    defined = np.isfinite(stacked)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = np.where(defined, stacked, 0).sum(0) / defined.sum(0)
    return means
