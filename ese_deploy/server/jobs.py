"""The texts of one request on their way through the queue."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.server.catalog import ServedTarget

__all__ = ["Job", "Pieces"]


@dataclass(eq=False)
class Job:
    """The texts of one request.

    Attributes:
        target: the target that embeds them.
        encodings: the tokenized texts.
        client: whose request it is.
        future: gets the vectors, float32 [n, dim], in the order of the texts.
        deadline: when the answer is late, by the clock of the queue.
        due: from when on it goes before younger requests of the client; set by the queue.
        overdue: from when on its client goes before others; set by the queue.
        long: whether it may take so long alone that nothing is promised about its end; set by the queue.
    """

    target: ServedTarget
    encodings: Sequence[Any]
    client: str
    future: "asyncio.Future[NDArray[np.float32]]"
    deadline: float
    due: float = field(default=0.0, init=False)
    overdue: float = field(default=0.0, init=False)
    long: bool = field(default=False, init=False)
    lengths: NDArray[np.int64] = field(init=False)
    tokens: int = field(init=False)
    abandoned: bool = field(default=False, init=False)
    waiting: int = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.encodings)
        self.lengths = np.fromiter((len(encoding) for encoding in self.encodings), np.int64, count)
        self.tokens = self.waiting = int(self.lengths.sum())
        # The longest first: pieces of similar lengths need little padding.
        self._order = np.argsort(-self.lengths, kind="stable") if count > 1 else np.zeros(count, np.int64)
        self._next = 0
        self._left = count
        self._vectors: NDArray[np.float32] | None = None

    def take(self, tokens: int) -> NDArray[np.int64]:
        """The next rows, of about this many tokens, at least one."""
        rest = self._order[self._next :]
        count = max(1, int(np.searchsorted(np.cumsum(self.lengths[rest]), tokens, side="right")))
        rows = rest[:count]
        self._next += len(rows)
        self.waiting -= int(self.lengths[rows].sum())
        return rows

    @property
    def started(self) -> bool:
        """Whether a row was taken."""
        return self._next > 0

    @property
    def waiting_texts(self) -> int:
        """Rows that wait."""
        return len(self.encodings) - self._next

    def store(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> bool:
        """Keep the vectors of rows; whether they were the last."""
        cut = self.target.cut(vectors)
        if self._vectors is None:
            self._vectors = np.empty((len(self.encodings), cut.shape[1]), np.float32)
        self._vectors[rows] = cut
        self._left -= len(rows)
        return self._left == 0

    def finish(self, error: Exception | None) -> None:
        """Answer the request, on the thread of the event loop."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            assert self._vectors is not None
            self.future.set_result(self._vectors)


Pieces = list[tuple[Job, NDArray[np.int64]]]
