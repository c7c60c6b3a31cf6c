"""The protocol that every inference engine follows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine", "Session", "Streaming"]


class Session(Protocol):
    """A graph loaded into an engine; may be run from many threads at once."""

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        ...

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Compute the embeddings of one batch.

        Args:
            inputs: for each input of the graph an int64 array [batch, sequence].

        Returns:
            float32 [batch, dim], rows of norm 1.

        Raises:
            EngineError: the engine refused the batch.
        """
        ...


class Engine(Protocol):
    """An inference engine on one device."""

    @property
    def name(self) -> str:
        """The name that ``--engine`` takes."""
        ...

    @property
    def device(self) -> str:
        """``cpu``, or the accelerator's name."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the libraries that compute."""
        ...

    def load(self, graph: bytes, folder: Path, threads: int) -> Session:
        """Load a graph.

        Args:
            graph: the ONNX model, as the very bytes that were checked.
            folder: where the weights that the graph names lie.
            threads: threads that one call of ``run`` may use.

        Raises:
            EngineError: the engine refused the graph.
        """
        ...


@runtime_checkable
class Streaming(Protocol):
    """An engine that can compute several batches at once."""

    def load_streams(self, graph: bytes, folder: Path, threads: int) -> Session:
        """Load a graph so that ``threads`` calls of ``run`` compute at once, with one thread each.

        Args:
            graph: the ONNX model, as the very bytes that were checked.
            folder: where the weights that the graph names lie.
            threads: calls at once.

        Raises:
            EngineError: the engine refused the graph.
        """
        ...
