"""Running batches: one after another with all threads, or several at once with one thread each."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ese_deploy.engines import Session

__all__ = ["Streams"]

Inputs = Mapping[str, NDArray[np.int64]]


class Streams:
    """The sessions of one graph.

    Threads that share a batch wait for each other at every operator. With a batch each they do not: on two cores that
    gives 1.25 times as many texts per second (benchmarks/README.md). It needs the memory of a second session, which is
    loaded with the first long list of texts.

    Args:
        session: the graph, with all threads on one batch.
        threads: most batches that run at once.
        load_streams: loads the graph for ``threads`` runs at once with one thread each, or returns ``session`` if that
            is no longer possible. None: batches run one after another.
    """

    def __init__(self, session: Session, threads: int = 1, load_streams: Callable[[], Session] | None = None) -> None:
        self._session = session
        self._threads = threads
        self._load_streams = load_streams if threads > 1 else None
        self._several: Session | None = None
        self._lock = threading.Lock()

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return self._session.inputs

    def run(
        self, batches: Sequence[NDArray[np.intp]], prepare: Callable[[NDArray[np.intp]], Inputs]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Compute batches.

        Args:
            batches: the rows of each batch.
            prepare: makes the graph's inputs from rows. Several threads may call it.

        Yields:
            Rows and their vectors, float32 [len(rows), dim], in the order of ``batches``.

        Raises:
            EngineError: the engine fails on a batch.
        """
        if self._load_streams is None or len(batches) < 2 * self._threads:
            for rows in batches:
                yield rows, self._session.run(prepare(rows))
            return
        several = self._open_streams(self._load_streams)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="encode") as pool:
            yield from zip(batches, pool.map(lambda rows: several.run(prepare(rows)), batches), strict=True)

    def _open_streams(self, load: Callable[[], Session]) -> Session:
        with self._lock:
            if self._several is None:
                self._several = load()
            return self._several
