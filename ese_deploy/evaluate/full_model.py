"""Agreement with the full model: ranks of pairwise cosines, and overlap of nearest neighbours."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from ese_deploy.bundle.metrics import AGREEMENT
from ese_deploy.errors import InputError
from ese_deploy.evaluate.retrieval import search

__all__ = ["AGREEMENT", "agreement", "neighbour_overlap"]


def agreement(vectors: ArrayLike, full: ArrayLike) -> float:
    """Spearman's rank correlation between the pairwise cosines of two sets of vectors of the same texts.

    Args:
        vectors: [n, dim], rows of norm 1.
        full: [n, width], the full model's vectors of the same n texts, rows of norm 1.

    Returns:
        From -1 to 1; 1 where every pair has the same rank, 0 where the vectors give no order: all pairs are alike, or
        a vector holds NaN.

    Raises:
        InputError: the two differ in n, or n is below 3.
    """
    first, second = np.asarray(vectors, np.float64), np.asarray(full, np.float64)
    if len(first) != len(second) or len(first) < 3:
        raise InputError(f"agreement compares the vectors of at least 3 texts, got {len(first)} and {len(second)}")
    value = float(spearmanr(_pairwise(first), _pairwise(second)).statistic)
    return value if math.isfinite(value) else 0.0


def neighbour_overlap(vectors: ArrayLike, full: ArrayLike, count: int = 10) -> float:
    """Share of each text's nearest neighbours that the full model finds too, as a mean over the texts.

    Args:
        vectors: [n, dim], rows of norm 1.
        full: [n, width], the full model's vectors of the same n texts, rows of norm 1.
        count: how many neighbours of each text; the text itself is none.

    Returns:
        From 0 to 1.

    Raises:
        InputError: the two differ in n, or n is not above ``count``.
    """
    first, second = (np.nan_to_num(np.asarray(one, np.float32)) for one in (vectors, full))
    if len(first) != len(second) or len(first) <= count:
        raise InputError(
            f"the {count} nearest neighbours need the vectors of more than {count} texts, "
            f"got {len(first)} and {len(second)}"
        )
    shared = [len(a & b) for a, b in zip(_neighbours(first, count), _neighbours(second, count), strict=True)]
    return sum(shared) / (count * len(first))


def _neighbours(vectors: NDArray[np.float32], count: int) -> list[set[int]]:
    found, _ = search(vectors, vectors, count + 1)
    # A text that has twins may stand behind them, or even be missing: then its nearest ``count`` are kept.
    return [set([row for row in rows if row != text][:count]) for text, rows in enumerate(found.tolist())]


def _pairwise(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    cosines: NDArray[np.float64] = (vectors @ vectors.T)[np.triu_indices(len(vectors), k=1)]
    return cosines
