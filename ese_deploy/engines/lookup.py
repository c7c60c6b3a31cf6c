"""Depth 0 in numpy: token vectors are looked up and summed, for which no inference engine is needed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.graph_reader import Graph, Tensor, read_graph_file
from ese_deploy.engines.base import EngineInput

__all__ = ["LOOKUP", "LOOKUP_DTYPES", "Lookup", "LookupSession", "load_lookup"]

LOOKUP = "numpy"
"""The name under which an encoder reports it."""

LOOKUP_DTYPES = frozenset({"fp32", "fp16", "int8"})

# What the graph of a lookup has beside Gather. Another operator, such as a projection, needs an engine.
_OPERATORS = frozenset(
    {"Cast", "Unsqueeze", "MatMul", "Squeeze", "Slice", "ReduceL2", "Max", "Div", "Mul", "Gather", "Identity"}
)
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 3: np.dtype("i1"), 10: np.dtype("<f2")}
# Tokens that are looked up at once: 6 MB of float32 for 384 dimensions, which stays in the processor's cache.
_MOST_TOKENS = 1 << 12
_NORM_FLOOR = np.float32(1e-12)


@dataclass(frozen=True, eq=False)
class Lookup:
    """A table of token vectors, mapped from the weights file. Several threads may use it at once.

    Attributes:
        table: [vocabulary, dim], float32, float16 or int8.
        scales: float32 [vocabulary, 1], by which rows of int8 are multiplied.
    """

    table: NDArray[Any]
    scales: NDArray[np.float32] | None = None

    def embed(self, rows: Sequence[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.float32]:
        """The normalised sums of token vectors.

        Args:
            rows: token ids of each text, at least one a text.

        Returns:
            float32 [n, dim], rows of norm 1.
        """
        sums = np.empty((len(rows), self.table.shape[1]), np.float32)
        start = tokens = 0
        for end, row in enumerate(rows):
            if end > start and tokens + len(row) > _MOST_TOKENS:
                sums[start:end] = self._sums(rows[start:end])
                start, tokens = end, 0
            tokens += len(row)
        if len(rows) > start:
            sums[start:] = self._sums(rows[start:])
        sums /= np.maximum(np.sqrt(np.einsum("ij,ij->i", sums, sums))[:, None], _NORM_FLOOR)
        return sums

    def embed_one(self, row: Sequence[int]) -> NDArray[np.float32]:
        """As :meth:`embed` for one text, without what several need: float32 [dim]."""
        vector: NDArray[np.float32] = self._vectors(row).sum(0)
        vector /= max(math.sqrt(float(vector @ vector)), float(_NORM_FLOOR))
        return vector

    def _sums(self, rows: Sequence[Sequence[int] | NDArray[np.int64]]) -> NDArray[np.float32]:
        if len(rows) == 1:
            total: NDArray[np.float32] = self._vectors(np.asarray(rows[0])).sum(0, keepdims=True)
            return total
        lengths = np.fromiter(map(len, rows), np.intp, len(rows))
        flat = np.concatenate([np.asarray(row) for row in rows])
        starts = np.cumsum(lengths) - lengths
        found: NDArray[np.float32] = np.add.reduceat(self._vectors(flat), starts, axis=0)
        return found

    def _vectors(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.table[ids].astype(np.float32, copy=False)
        return found if self.scales is None else found * self.scales[ids]


@dataclass(frozen=True)
class LookupSession:
    """A lookup as a session of an engine, for callers that have padded batches.

    Attributes:
        names: the graph's inputs.
        lookup: the token vectors.
    """

    names: tuple[str, ...]
    lookup: Lookup

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return list(self.names)

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute the embeddings of one padded batch; see :meth:`ese_deploy.engines.base.Session.run`."""
        rows = [ids[mask > 0] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
        return self.lookup.embed(rows)


def load_lookup(source: EngineInput, dim: int) -> Lookup | None:
    """Map the token vectors of a target's graph.

    Args:
        source: the graph, checked, and its weights.
        dim: dimensions of the target.

    Returns:
        None if the graph does more than a lookup, so that it needs an engine.
    """
    graph = read_graph_file(source.graph)
    if not {node.op for node in graph.nodes} <= _OPERATORS:
        return None
    tables = _tables(graph)
    if tables is None:
        return None
    table, scales = tables
    mapped = _map(source, table)[:, :dim]
    return Lookup(mapped, None if scales is None else _map(source, scales))


def _tables(graph: Graph) -> tuple[Tensor, Tensor | None] | None:
    """The token vectors, and the scales of their rows; None if the graph has others."""
    found = []
    for node in graph.nodes:
        if node.op == "Gather":
            tensor = graph.tensors.get(node.inputs[0])
            if tensor is None or node.inputs[1] != "input_ids" or tensor.dtype not in _DTYPES or len(tensor.dims) != 2:
                return None
            found.append(tensor)
    if len(found) == 1 and _DTYPES[found[0].dtype].kind == "f":
        return found[0], None
    whole = [tensor for tensor in found if _DTYPES[tensor.dtype].kind == "i"]
    scales = [tensor for tensor in found if tensor.dims[1] == 1 and tensor.dtype == 1]
    return (whole[0], scales[0]) if len(found) == 2 and whole and scales else None


def _map(source: EngineInput, tensor: Tensor) -> NDArray[Any]:
    dtype = _DTYPES[tensor.dtype]
    if tensor.location is None:
        return np.frombuffer(tensor.raw, dtype).reshape(tensor.dims)
    # A plain array of the mapped memory: indexing numpy.memmap takes microseconds longer, which a short text notices.
    return np.asarray(np.memmap(source.weights, dtype, "r", tensor.offset, tensor.dims))
