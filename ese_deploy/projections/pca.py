"""PCA projections: rotate an exit's vectors onto their principal components.

The components are those of the covariance about the mean, but the mean is not subtracted from a vector. The projection
is then a rotation at full width, and keeps every cosine. For all-MiniLM-L6-v2 it ranks as well at the trained exit,
and better at most other exits (docs/reference/backbones.md).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.projections.projection import Projection, unit_rows

__all__ = ["Moments", "fit_pca", "mean_squares", "minimum_texts"]

# n texts span at most n - 1 directions. With twice the width, chance decides no direction.
_TEXTS_PER_DIM = 2


@dataclass
class Moments:
    """First and second moments of a stream of vectors, in float64; memory does not grow with their number.

    Attributes:
        width: dimensions of a vector.
        count: vectors added.
    """

    width: int
    count: int = 0
    _sum: NDArray[np.float64] = field(init=False, repr=False)
    _products: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._sum = np.zeros(self.width)
        self._products = np.zeros((self.width, self.width))

    def add(self, vectors: NDArray[np.floating]) -> None:
        """Add vectors, [n, width]; each is scaled to norm 1 first."""
        x = unit_rows(vectors)
        self.count += len(x)
        self._sum += x.sum(0)
        self._products += x.T @ x

    def covariance(self) -> NDArray[np.float64]:
        """Covariance about the mean, [width, width]."""
        mean = self._sum / self.count
        covariance: NDArray[np.float64] = self._products / self.count - np.outer(mean, mean)
        return covariance

    def mean_squares(self, matrix: NDArray[np.floating]) -> NDArray[np.float64]:
        """Mean square of each component of the projected vectors; ``matrix`` is [rows, width]."""
        return mean_squares(matrix, self._products / self.count)


def mean_squares(matrix: NDArray[np.floating], products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean squares of M x, [rows], from the mean of x x^T."""
    m = matrix.astype(np.float64)
    squares: NDArray[np.float64] = ((m @ products) * m).sum(1)
    return squares


def minimum_texts(width: int) -> int:
    """The smallest number of calibration texts for vectors of ``width`` dimensions."""
    return _TEXTS_PER_DIM * width


def fit_pca(moments: Moments) -> Projection:
    """Fit a PCA projection: one component a row, in order of falling variance.

    Uses an exact eigendecomposition in float64. The entry of largest magnitude in a component is made positive, so
    that the same texts give the same file.

    Raises:
        InputError: there are too few texts.
    """
    minimum = minimum_texts(moments.width)
    if moments.count < minimum:
        raise InputError(
            f"{moments.count} calibration texts are too few for vectors of {moments.width} dimensions. "
            f"Give at least {minimum}."
        )
    _, vectors = np.linalg.eigh(moments.covariance())
    components = vectors.T[::-1]
    largest = np.abs(components).argmax(1)
    signs = np.sign(components[np.arange(moments.width), largest])
    # safetensors writes the memory of an array as it is, so the array must be contiguous.
    return Projection(np.ascontiguousarray(components * signs[:, None], np.float32))
