"""Linear maps that were fitted to the vectors of exits, and keeping them in one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import BundleError

__all__ = ["MAPS_FILE", "LinearMap", "load_maps", "save_maps", "unit_rows"]

MAPS_FILE = "projection.safetensors"


@dataclass(frozen=True)
class LinearMap:
    """A map of an exit's vectors: y = matrix x.

    Attributes:
        matrix: float32 [width, width].
    """

    matrix: NDArray[np.float32]


def save_maps(path: Path, maps: Mapping[int, LinearMap]) -> None:
    """Write the maps of several exits to one file."""
    from safetensors.numpy import save_file

    save_file({f"exit{depth:02d}": fitted.matrix for depth, fitted in sorted(maps.items())}, path)


def load_maps(content: bytes, where: str) -> dict[int, LinearMap]:
    """Read the maps of several exits.

    Args:
        content: the file's bytes.
        where: its path, for the error message.

    Raises:
        BundleError: the content is something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return {int(name.removeprefix("exit")): LinearMap(tensor) for name, tensor in load(content).items()}
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{where} cannot be read as projections: {error}; export the bundle again") from error


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows scaled to norm 1, [n, width]."""
    x = vectors.astype(np.float64)
    unit: NDArray[np.float64] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit
