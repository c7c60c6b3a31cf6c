"""Principal components of an exit's vectors.

The components are those of the covariance about the mean, but the mean is not subtracted from a vector: a rotation of
the full width then keeps every cosine. On all-MiniLM-L6-v2 that ranks as well at the trained exit, and at most of the
others better (docs/backbones.md).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.projections.projection import Projection, unit_rows

__all__ = ["Moments", "fit_pca", "mean_squares", "texts_wanted"]

# n texts span at most n - 1 directions; twice the width leaves no direction to chance.
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
        """Mean square of each component of the vectors under a matrix, [rows, width]."""
        return mean_squares(matrix, self._products / self.count)


def mean_squares(matrix: NDArray[np.floating], products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean squares of M x, [rows], out of the mean of x x^T."""
    m = matrix.astype(np.float64)
    squares: NDArray[np.float64] = ((m @ products) * m).sum(1)
    return squares


def texts_wanted(width: int) -> int:
    """The least number of calibration texts for vectors of ``width`` dimensions."""
    return _TEXTS_PER_DIM * width


def fit_pca(moments: Moments) -> Projection:
    """Principal components, one in each row, by falling variance.

    By an exact eigendecomposition of the covariance, in float64.
    The sign of a component is free: here its entry of largest magnitude is positive, so that the same texts give the
    same file.

    Raises:
        InputError: there were too few texts.
    """
    wanted = texts_wanted(moments.width)
    if moments.count < wanted:
        raise InputError(
            f"{moments.count} calibration texts are too few for vectors of {moments.width} dimensions; "
            f"give at least {wanted}"
        )
    _, vectors = np.linalg.eigh(moments.covariance())
    components = vectors.T[::-1]
    largest = np.abs(components).argmax(1)
    signs = np.sign(components[np.arange(moments.width), largest])
    # safetensors writes an array's memory as it lies.
    return Projection(np.ascontiguousarray(components * signs[:, None], np.float32))
