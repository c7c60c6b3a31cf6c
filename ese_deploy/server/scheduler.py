"""Dynamic batches without a timer: the worker takes what waits, as soon as it is free."""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from ese_deploy.server.catalog import Lane, ServedTarget
from ese_deploy.server.errors import ApiError
from ese_deploy.server.jobs import Job, Pieces
from ese_deploy.server.queue import Queue

__all__ = ["Observer", "Scheduler"]

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told about batches; called by the worker's thread."""

    def batch(self, lane: Lane, texts: int, tokens: int, seconds: float) -> None:
        """A batch was computed."""
        ...


class Scheduler:
    """The queue, and the thread that computes.

    Args:
        loop: the event loop on which jobs are answered.
        limit: most tokens that wait.
        timeout: most seconds that a request takes.
        observer: is told about batches.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, timeout: float, observer: Observer) -> None:
        self._loop = loop
        self._timeout = timeout
        self._observer = observer
        self._condition = threading.Condition()
        self._queue = Queue(limit, timeout)
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
        return self._queue.waiting_tokens

    @property
    def waiting_texts(self) -> int:
        """Texts that wait."""
        return self._queue.waiting_texts

    @property
    def fill(self) -> float:
        """Share of the queue that is in use: of the tokens, or of the time."""
        with self._condition:
            return self._queue.fill

    def check(self, client: str) -> None:
        """Refuse a client's next request before it is read.

        Raises:
            QueueFullError: every request of this client would be refused.
        """
        with self._condition:
            self._queue.check(client)

    def submit(
        self, target: ServedTarget, encodings: Sequence[Any], client: str, seconds_left: float | None = None
    ) -> Job:
        """Queue texts. Called on the thread of the event loop.

        Args:
            target: the target that embeds them.
            encodings: the tokenized texts.
            client: whose request it is.
            seconds_left: until the answer is late. Default: the whole time limit.

        Raises:
            QueueFullError: too many tokens wait, or the answer would be late.
        """
        deadline = time.monotonic() + (self._timeout if seconds_left is None else seconds_left)
        job = Job(target, encodings, client, self._loop.create_future(), deadline)
        with self._condition:
            self._queue.add(job)
            self._condition.notify()
        return job

    def abandon(self, job: Job) -> None:
        """Leave the rest of a job out, because nobody waits for it. Called on the thread of the event loop."""
        with self._condition:
            self._queue.remove(job)

    def _work(self) -> None:
        free = time.perf_counter()
        while True:
            with self._condition:
                while not self._queue and not self._stopped:
                    self._condition.wait()
                    free = time.perf_counter()
                if self._stopped:
                    return
                lane, pieces = self._queue.take()
            self._compute(lane, pieces, free)
            free = time.perf_counter()

    def _compute(self, lane: Lane, pieces: Pieces, free: float) -> None:
        """Compute a batch. Its time counts from when the worker was free, so that rates include everything."""
        encodings = [job.encodings[row] for job, rows in pieces for row in rows]
        tokens = sum(int(job.lengths[rows].sum()) for job, rows in pieces)
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
        seconds = time.perf_counter() - free
        with self._condition:
            self._queue.done(lane, tokens, seconds if failure is None else None)
        self._observer.batch(lane, len(encodings), tokens, seconds)
        if done:
            self._loop.call_soon_threadsafe(self._answer, done, failure)

    def _answer(self, jobs: list[Job], failure: Exception | None) -> None:
        for job in jobs:
            if failure is not None:
                self.abandon(job)
            job.finish(failure)
