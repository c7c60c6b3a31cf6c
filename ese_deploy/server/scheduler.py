"""Dynamic batches without a timer: the worker takes what waits, as soon as it is free.

Each API key has its own line, and keys take turns; so do the requests of a key, and the graphs that its requests need.
A long request is cut into pieces of similar lengths, so that it does not hold up the requests behind it.
"""

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ese_deploy.server.catalog import Lane, ServedTarget
from ese_deploy.server.errors import ApiError

__all__ = ["Job", "Observer", "QueueFullError", "Scheduler", "retry_after"]

_log = logging.getLogger(__name__)

# Pieces of one request in a batch, if other requests wait.
_TURNS = 4
# Tokens a second that are assumed until the first batch of a graph is measured.
_FIRST_RATE = 5000.0
_SMOOTHING = 0.2


class Observer(Protocol):
    """Is told about batches; called by the worker's thread."""

    def batch(self, lane: Lane, texts: int, tokens: int, seconds: float) -> None:
        """A batch was computed."""
        ...


class QueueFullError(Exception):
    """The queue has no room.

    Attributes:
        seconds: when it will have room, at the rate of the last batches.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"room in {seconds:.1f} s")
        self.seconds = seconds


@dataclass(eq=False)
class Job:
    """The texts of one request.

    Attributes:
        target: the target that embeds them.
        encodings: the tokenized texts.
        client: whose request it is.
        future: gets the vectors, float32 [n, dim], in the order of the texts.
    """

    target: ServedTarget
    encodings: Sequence[Any]
    client: str
    future: "asyncio.Future[NDArray[np.float32]]"
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
    def taken(self) -> bool:
        """Whether no row waits."""
        return self._next == len(self.encodings)

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


class Scheduler:
    """The queue, and the thread that computes.

    Args:
        loop: the event loop on which jobs are answered.
        limit: most tokens that wait.
        patience: most seconds that a request waits, as estimated from the last batches; one that would wait longer is
            refused at once, not after its time is over.
        observer: is told about batches.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, patience: float, observer: Observer) -> None:
        self._loop = loop
        self._limit = limit
        self._patience = patience
        self._observer = observer
        self._condition = threading.Condition()
        # Of each client, its jobs by the graph that they need. Clients and graphs take turns from the front.
        self._clients: OrderedDict[str, OrderedDict[Lane, deque[Job]]] = OrderedDict()
        self._tokens: dict[Lane, int] = {}
        self._waiting = 0
        self._texts = 0
        # Weak: a lane that a reload has replaced must not stay in memory.
        self._rates: WeakKeyDictionary[Lane, float] = WeakKeyDictionary()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after its present batch. Jobs that wait are not answered."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait."""
        return self._waiting

    @property
    def waiting_texts(self) -> int:
        """Texts that wait."""
        return self._texts

    @property
    def fill(self) -> float:
        """Share of the queue that is in use: of the tokens, or of the time."""
        with self._condition:
            return max(self._waiting / self._limit, self._seconds(self._waiting) / self._patience)

    def submit(self, target: ServedTarget, encodings: Sequence[Any], client: str) -> Job:
        """Queue texts. Called on the thread of the event loop.

        Raises:
            QueueFullError: too many tokens wait, or would make it wait too long.
        """
        job = Job(target, encodings, client, self._loop.create_future())
        lane = target.lane
        with self._condition:
            excess = max(0, self._waiting + job.tokens - self._limit)
            late = self._seconds(self._waiting) - self._patience
            if self._waiting and (excess or late > 0):
                raise QueueFullError(max(late, self._seconds(min(excess, self._waiting))))
            self._clients.setdefault(client, OrderedDict()).setdefault(lane, deque()).append(job)
            self._account(lane, job.tokens, len(encodings))
            self._condition.notify()
        return job

    def abandon(self, job: Job) -> None:
        """Leave the rest of a job out, because nobody waits for it. Called on the thread of the event loop."""
        with self._condition:
            if job.abandoned or job.taken:
                job.abandoned = True
                return
            job.abandoned = True
            lane = job.target.lane
            self._account(lane, -job.waiting, -(len(job.encodings) - job._next))
            line = self._clients[job.client][lane]
            line.remove(job)
            self._leave_if_empty(job.client, lane)

    def _seconds(self, tokens: int) -> float:
        """How long ``tokens`` of those that wait take, at the rates of the last batches."""
        total = sum(count / self._rates.get(lane, _FIRST_RATE) for lane, count in self._tokens.items())
        return total * tokens / max(1, self._waiting)

    def _account(self, lane: Lane, tokens: int, texts: int) -> None:
        self._waiting += tokens
        self._texts += texts
        left = self._tokens.get(lane, 0) + tokens
        if left:
            self._tokens[lane] = left
        else:
            self._tokens.pop(lane, None)

    def _leave_if_empty(self, client: str, lane: Lane) -> None:
        lanes = self._clients[client]
        if not lanes[lane]:
            del lanes[lane]
        if not lanes:
            del self._clients[client]

    def _take(self) -> tuple[Lane, Pieces]:
        """The pieces of the next batch: of the client and graph whose turn it is, filled up from other clients."""
        first = next(iter(self._clients))
        lane = next(iter(self._clients[first]))
        turns = deque(client for client, lanes in self._clients.items() if lane in lanes)
        pieces: Pieces = []
        left = lane.tokens
        while turns and left > 0:
            client = turns.popleft()
            line = self._clients[client][lane]
            job = line.popleft()
            rows = job.take(min(left, max(1, lane.tokens // _TURNS)))
            tokens = int(job.lengths[rows].sum())
            left -= tokens
            self._account(lane, -tokens, -len(rows))
            pieces.append((job, rows))
            if not job.taken:
                line.append(job)
            if line:
                turns.append(client)
            else:
                self._leave_if_empty(client, lane)
        if first in self._clients:
            if lane in self._clients[first]:
                self._clients[first].move_to_end(lane)
            self._clients.move_to_end(first)
        return lane, pieces

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._clients and not self._stopped:
                    self._condition.wait()
                if self._stopped:
                    return
                lane, pieces = self._take()
            self._compute(lane, pieces)

    def _compute(self, lane: Lane, pieces: Pieces) -> None:
        started = time.perf_counter()
        encodings = [job.encodings[row] for job, rows in pieces for row in rows]
        done: list[Job] = []
        failure: Exception | None = None
        try:
            vectors = lane.embed(encodings)
            start = 0
            for job, rows in pieces:
                if job.store(rows, vectors[start : start + len(rows)]):
                    done.append(job)
                start += len(rows)
        except Exception as error:
            _log.exception("A batch of %s failed", lane.name)
            failure = ApiError(500, f"The engine failed on a batch of {lane.name}: {error}", code="engine_error")
            done = [job for job, _ in pieces]
        seconds = time.perf_counter() - started
        tokens = sum(int(job.lengths[rows].sum()) for job, rows in pieces)
        rate = tokens / max(seconds, 1e-6)
        self._rates[lane] = (
            rate if lane not in self._rates else (_SMOOTHING * rate + (1 - _SMOOTHING) * self._rates[lane])
        )
        self._observer.batch(lane, len(encodings), tokens, seconds)
        if done:
            self._loop.call_soon_threadsafe(self._answer, done, failure)

    def _answer(self, jobs: list[Job], failure: Exception | None) -> None:
        for job in jobs:
            if failure is not None:
                self.abandon(job)
            job.finish(failure)


def retry_after(error: QueueFullError) -> str:
    """The value of the header ``Retry-After``."""
    return str(max(1, math.ceil(error.seconds)))
