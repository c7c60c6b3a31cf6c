"""Linear maps that were fitted to the vectors of exits, and keeping them in one file."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import BundleError

__all__ = ["PROJECTIONS_FILE", "Projection", "encode_projections", "load_projections", "read_states", "unit_rows"]

PROJECTIONS_FILE = "projection.safetensors"


_MOST_STATES = 6


@dataclass(frozen=True)
class Projection:
    """A map of what an exit has computed: y = matrix x.

    Attributes:
        matrix: float32 [width, inputs].
        states: x is the exit's own vector where there are none; else the pooled token states of these blocks, each
            scaled to norm 1, one behind another. State 0 is the output of the embeddings.
    """

    matrix: NDArray[np.float32]
    states: tuple[int, ...] = ()


def read_states(depth: int) -> tuple[int, ...]:
    """The states that a map of exit ``depth`` reads: the first, the last, and evenly between, at most six.

    More would make the matrices of deep models as large as blocks.
    """
    count = min(depth + 1, _MOST_STATES)
    return tuple(round(place * depth / (count - 1)) for place in range(count))


def encode_projections(projections: Mapping[int, Projection]) -> bytes:
    """The maps of several exits as the bytes of one file."""
    from safetensors.numpy import save

    return save({_name(depth, fitted): fitted.matrix for depth, fitted in sorted(projections.items())})


def load_projections(content: bytes, where: str) -> dict[int, Projection]:
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
        return dict(_named(name, tensor) for name, tensor in load(content).items())
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{where} cannot be read as projections of exits: {error}; make it again") from error


def _name(depth: int, fitted: Projection) -> str:
    states = f".states_{'_'.join(map(str, fitted.states))}" if fitted.states else ""
    return f"exit{depth:02d}{states}"


def _named(name: str, tensor: NDArray[np.float32]) -> tuple[int, Projection]:
    depth, _, states = name.removeprefix("exit").partition(".states_")
    read = tuple(int(state) for state in states.split("_")) if states else ()
    if tensor.ndim != 2 or tensor.dtype != np.float32 or any(not 0 <= state <= int(depth) for state in read):
        raise ValueError(f"'{name}' is not a map of an exit")
    return int(depth), Projection(tensor, read)


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows scaled to norm 1, [n, width]."""
    x = vectors.astype(np.float64)
    unit: NDArray[np.float64] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit
