"""Principal components of an exit's vectors: fitting them, and keeping them in one file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import BundleError, InputError

__all__ = ["PCA_FILE", "Moments", "Pca", "fit_pca", "load_pcas", "save_pcas", "texts_wanted"]

PCA_FILE = "projection.safetensors"

# n texts span at most n - 1 directions; twice the width leaves no direction to chance.
_TEXTS_PER_DIM = 2


@dataclass(frozen=True)
class Pca:
    """A rotation of an exit's vectors onto their principal components: y = components x.

    The components are those of the covariance about the mean, but the mean is not subtracted from x: a rotation of
    the full width then keeps every cosine. On all-MiniLM-L6-v2 that ranks as well at the trained exit, and at most of
    the others better (docs/backbones.md).

    Attributes:
        components: float32 [width, width], a component in each row, by falling variance.
    """

    components: NDArray[np.float32]


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
        x = vectors.astype(np.float64)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        self.count += len(x)
        self._sum += x.sum(0)
        self._products += x.T @ x

    def covariance(self) -> NDArray[np.float64]:
        """Covariance about the mean, [width, width]."""
        mean = self._sum / self.count
        covariance: NDArray[np.float64] = self._products / self.count - np.outer(mean, mean)
        return covariance


def texts_wanted(width: int) -> int:
    """The least number of calibration texts for vectors of ``width`` dimensions."""
    return _TEXTS_PER_DIM * width


def fit_pca(moments: Moments) -> Pca:
    """Principal components by an exact eigendecomposition of the covariance, in float64.

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
    return Pca(np.ascontiguousarray(components * signs[:, None], np.float32))


def save_pcas(path: Path, pcas: Mapping[int, Pca]) -> None:
    """Write the projections of several exits to one file."""
    from safetensors.numpy import save_file

    save_file({f"exit{depth:02d}": pca.components for depth, pca in sorted(pcas.items())}, path)


def load_pcas(content: bytes, where: str) -> dict[int, Pca]:
    """Read the projections of several exits.

    Args:
        content: the file's bytes.
        where: its path, for the error message.

    Raises:
        BundleError: the content is something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return {int(name.removeprefix("exit")): Pca(tensor) for name, tensor in load(content).items()}
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{where} cannot be read as projections: {error}; export the bundle again") from error
