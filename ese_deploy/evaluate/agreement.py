"""Agreement with the full model: do the same pairs of texts count as close?"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from ese_deploy.errors import InputError

__all__ = ["AGREEMENT", "agreement"]

AGREEMENT = "agreement"


def agreement(vectors: ArrayLike, full: ArrayLike) -> float:
    """Spearman's rank correlation between the pairwise cosines of two sets of vectors of the same texts.

    Args:
        vectors: [n, dim], rows of norm 1.
        full: [n, width], the full model's vectors of the same n texts, rows of norm 1.

    Returns:
        From -1 to 1; 1 where every pair has the same rank.

    Raises:
        InputError: the two differ in n, or n is below 3.
    """
    first, second = np.asarray(vectors, np.float64), np.asarray(full, np.float64)
    if len(first) != len(second) or len(first) < 3:
        raise InputError(f"agreement compares the vectors of at least 3 texts, got {len(first)} and {len(second)}")
    return float(spearmanr(_pairwise(first), _pairwise(second)).statistic)


def _pairwise(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    cosines: NDArray[np.float64] = (vectors @ vectors.T)[np.triu_indices(len(vectors), k=1)]
    return cosines
