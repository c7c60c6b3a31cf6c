"""Semantic textual similarity (STS): correlation of cosines with the scores of sentence pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr, rankdata

from ese_deploy.errors import InputError
from ese_deploy.evaluate.data import StsData

__all__ = ["CanEncode", "StsScore", "evaluate_sts", "pair_cosines", "score_cosines", "score_sts"]


class CanEncode(Protocol):
    """An ``Encoder``, a ``SentenceTransformer``, a checkpoint at an exit: anything with ``encode``."""

    def encode(self, sentences: Any, /) -> Any:
        """Embed a list of texts, [n, dim]."""
        ...


@dataclass(frozen=True)
class StsScore:
    """Correlations of cosines with people's scores, from -1 to 1.

    Attributes:
        n: number of pairs.
        spearman: of ranks, over all pairs concatenated: the protocol "all".
        pearson: of values, over all pairs concatenated.
        spearman_mean: mean over the subsets, each counting once; None where the data has no subsets.
        pearson_mean: likewise.
        subsets: Spearman's correlation of each subset; one whose scores are all equal has none and is left out.
    """

    n: int
    spearman: float
    pearson: float
    spearman_mean: float | None
    pearson_mean: float | None
    subsets: dict[str, float]


def evaluate_sts(model: CanEncode, data: StsData) -> StsScore:
    """Embed the pairs, each distinct sentence once, and score them.

    Raises:
        InputError: the model returned vectors of another number or with NaN, or all scores are equal.
    """
    texts = list(dict.fromkeys([*data.first, *data.second]))
    rows = {text: row for row, text in enumerate(texts)}
    vectors = np.asarray(model.encode(texts), np.float32)
    return score_sts(vectors[[rows[t] for t in data.first]], vectors[[rows[t] for t in data.second]], data)


def score_sts(first: ArrayLike, second: ArrayLike, data: StsData) -> StsScore:
    """Correlate the cosines of two sets of vectors with the scores.

    Args:
        first: vectors of ``data.first``, [n, dim], of any norm.
        second: vectors of ``data.second``, [n, dim].
        data: the pairs.

    Raises:
        InputError: n differs, a vector holds NaN or infinity, or the correlation is undefined because all scores or
            all cosines are equal.
    """
    return score_cosines(pair_cosines(first, second), data)


def score_cosines(cosines: NDArray[np.float64], data: StsData) -> StsScore:
    """Correlate the cosines of the pairs, [n], with the scores; errors as for :func:`score_sts`."""
    if len(cosines) != len(data.scores):
        raise InputError(f"{data.name} has {len(data.scores)} pairs, got vectors of {len(cosines)}")
    if not np.isfinite(cosines).all():
        raise InputError(f"the vectors of {data.name} hold NaN or infinity; verify the model first")
    spearman, pearson = _correlate(cosines, data.scores)
    if np.isnan(spearman):
        raise InputError(f"{data.name}: all scores or all cosines are equal, so that they have no correlation")
    parts = {name: _correlate(cosines[rows], data.scores[rows]) for name, rows in _subset_rows(data.subsets)}
    defined = [part for part in parts.values() if not np.isnan(part[0])]
    means = np.mean(defined, axis=0).tolist() if defined else [None, None]
    return StsScore(
        n=len(cosines),
        spearman=spearman,
        pearson=pearson,
        spearman_mean=means[0],
        pearson_mean=means[1],
        subsets={name: part[0] for name, part in parts.items() if not np.isnan(part[0])},
    )


def pair_cosines(left: ArrayLike, right: ArrayLike) -> NDArray[np.float64]:
    """The cosine of each vector of ``left`` with that of ``right`` in the same row; [n] of [n, dim].

    Raises:
        InputError: the shapes differ.
    """
    first, second = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if first.shape != second.shape:
        raise InputError(f"the two sides have vectors of the shapes {first.shape} and {second.shape}; they must agree")
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float64] = (first * second).sum(1) / np.maximum(norms, 1e-12)
    return cosines


def _correlate(cosines: NDArray[np.float64], scores: NDArray[np.float64]) -> tuple[float, float]:
    """Spearman's and Pearson's correlation, or NaN where one side is constant."""
    if len(scores) < 2 or np.ptp(cosines) == 0 or np.ptp(scores) == 0:
        return float("nan"), float("nan")
    # Spearman's correlation is Pearson's of the ranks, ties sharing their mean rank.
    spearman = pearsonr(rankdata(cosines), rankdata(scores)).statistic
    return float(spearman), float(pearsonr(cosines, scores).statistic)


def _subset_rows(subsets: Sequence[str]) -> list[tuple[str, NDArray[np.int64]]]:
    names = np.array(subsets)
    return [(name, np.flatnonzero(names == name)) for name in dict.fromkeys(subsets)]
