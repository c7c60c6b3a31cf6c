"""The protocol that every inference engine follows, and the value that it is given."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Engine", "EngineInput", "Session", "Streaming"]


@dataclass(frozen=True)
class EngineInput:
    """A graph and all that an engine needs to load it.

    Attributes:
        graph: the ONNX model, as the bytes whose hash was checked.
        path: the graph's file. It may hold other bytes, or not exist, where ``graph`` was made in memory.
        weights: the weights file that the graph names. It lies in the folder of ``path``.
        weights_sha256: its hash, lowercase hex.
        max_length: longest row in tokens, special tokens included.
        dtype: dtype of the target, such as ``fp32``.
        inputs: names of the graph's inputs.
    """

    graph: bytes
    path: Path
    weights: Path
    weights_sha256: str
    max_length: int
    dtype: str
    inputs: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over graph and weights, lowercase hex; it names compiled plans.

        Two checkpoints of one architecture have the same graph and differ in the weights only.
        """
        return hashlib.sha256(hashlib.sha256(self.graph).digest() + self.weights_sha256.encode()).hexdigest()


class Session(Protocol):
    """A graph loaded into an engine. Several threads may call :meth:`run` at once."""

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
            EngineError: the engine fails on the batch.
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

    def load(self, source: EngineInput, threads: int) -> Session:
        """Load a graph.

        Args:
            source: the graph and its weights.
            threads: threads that one call of ``run`` may use.

        Raises:
            EngineError: the engine cannot load the graph.
        """
        ...


@runtime_checkable
class Streaming(Protocol):
    """An engine that can compute several batches at once."""

    def load_streams(self, source: EngineInput, threads: int) -> Session:
        """Load a graph so that ``threads`` calls of ``run`` compute at once, with one thread each.

        Args:
            source: the graph and its weights.
            threads: calls at once.

        Raises:
            EngineError: the engine cannot load the graph.
        """
        ...
