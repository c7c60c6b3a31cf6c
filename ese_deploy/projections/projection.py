"""Projections of exits and the file that stores them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import BundleError
from ese_deploy.projections.tokens import TOKEN_FEATURES, TokenFeatures

__all__ = [
    "PROJECTIONS_FILE",
    "Projection",
    "decode_projections",
    "encode_projections",
    "input_states",
    "read_exit_matrix",
    "unit_rows",
]

PROJECTIONS_FILE = "projection.safetensors"

_MAX_STATES = 6
# A safetensors file begins with the length of its JSON header.
_HEADER_SIZE = 8


@dataclass(frozen=True, repr=False)
class Projection:
    """A linear projection y = matrix x of an exit.

    Attributes:
        matrix: float32 [width, inputs].
        states: if empty, x is the exit's own vector. Otherwise x concatenates the pooled token states of these layers,
            each scaled to norm 1. State 0 is the output of the embeddings.
        tokens: if ``tokens`` has rarity weights, the means of the same states with these weights follow, each scaled to
            norm 1; if it has a table, the sum of the text's token vectors follows, scaled to norm 1. Without states, x
            is that sum alone.
    """

    matrix: NDArray[np.float32]
    states: tuple[int, ...] = ()
    tokens: TokenFeatures | None = None

    def __repr__(self) -> str:
        features = f", tokens={sorted(self.tokens.names)}" if self.tokens else ""
        return f"Projection({list(self.matrix.shape)}, states={self.states}{features})"

    @property
    def is_lookup(self) -> bool:
        """Whether it reads token vectors alone, so that no layer runs."""
        return self.tokens is not None and not self.states


def input_states(depth: int) -> tuple[int, ...]:
    """The states that the ridge projection of an exit reads: at most six, evenly spaced from 0 to ``depth``.

    With more, the matrices of deep models would be as large as layers.
    """
    count = min(depth + 1, _MAX_STATES)
    return tuple(round(place * depth / (count - 1)) for place in range(count))


def encode_projections(projections: Mapping[int, Projection]) -> bytes:
    """Encode the projections of several exits as a safetensors file.

    A tensor is named after its exit and the states that it reads, such as ``exit02.states_0_1_2``.
    """
    from safetensors.numpy import save

    return save({_name(depth, projection): projection.matrix for depth, projection in sorted(projections.items())})


def decode_projections(content: bytes, where: str, tokens: TokenFeatures | None = None) -> dict[int, Projection]:
    """Decode a file of :func:`encode_projections`.

    Args:
        content: the file's bytes.
        where: its path, for the error message.
        tokens: the token features that the projections may read.

    Raises:
        BundleError: the content has another format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(_parse(name, tensor, tokens) for name, tensor in load(content).items())
    except (SafetensorError, ValueError) as error:
        raise BundleError(f"{where} is not a file of projections: {error}. Export or train again.") from error


def read_exit_matrix(content: bytes, depth: int, where: str) -> NDArray[np.float32] | None:
    """The projection of an exit's own vector, out of a file of :func:`encode_projections`.

    It needs no safetensors, which the runtime does not install.

    Args:
        content: the file's bytes.
        depth: the exit.
        where: its path, for the error message.

    Returns:
        float32 [width, width]; None if the file has none.

    Raises:
        BundleError: the content has another format.
    """
    try:
        size = int.from_bytes(content[:_HEADER_SIZE], "little")
        entry = json.loads(content[_HEADER_SIZE : _HEADER_SIZE + size]).get(f"exit{depth:02d}")
        if entry is None:
            return None
        first, last = entry["data_offsets"]
        if entry["dtype"] != "F32" or len(entry["shape"]) != 2 or not 0 <= first <= last:
            raise ValueError(f"'exit{depth:02d}' is not a matrix of float32")
        start = _HEADER_SIZE + size
        return np.frombuffer(content[start + first : start + last], "<f4").reshape(entry["shape"]).astype(np.float32)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{where} is not a file of projections: {error}. Export or train again.") from error


def _name(depth: int, projection: Projection) -> str:
    states = f".states_{'_'.join(map(str, projection.states))}" if projection.states else ""
    features = "".join(f".{name}" for name in sorted(projection.tokens.names)) if projection.tokens else ""
    return f"exit{depth:02d}{states}{features}"


def _parse(name: str, tensor: NDArray[np.float32], tokens: TokenFeatures | None) -> tuple[int, Projection]:
    exit_, *parts = name.split(".")
    depth = int(exit_.removeprefix("exit"))
    features = frozenset(part for part in parts if part in TOKEN_FEATURES)
    listed = [part.removeprefix("states_") for part in parts if part not in TOKEN_FEATURES]
    states = tuple(int(state) for state in listed[0].split("_")) if listed else ()
    if tensor.ndim != 2 or tensor.dtype != np.float32 or any(not 0 <= state <= depth for state in states):
        raise ValueError(f"'{name}' is not the projection of an exit")
    if features and (tokens is None or features != tokens.names):
        raise ValueError(f"'{name}' reads token features that are not there")
    projection = Projection(tensor, states, tokens if features else None)
    if projection.is_lookup and depth:
        raise ValueError(f"'{name}' is a lookup, which is depth 0")
    return depth, projection


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale rows to norm 1, [n, width]."""
    x = vectors.astype(np.float64)
    unit: NDArray[np.float64] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit
