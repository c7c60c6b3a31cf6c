"""What all requests share: the models, the queue and the way through it."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import EseDeployError
from ese_deploy.server.catalog import Catalog, ServedBundle, ServedTarget, Wanted
from ese_deploy.server.errors import ApiError
from ese_deploy.server.http import Call, ClientGoneError
from ese_deploy.server.inputs import TokenizedInput
from ese_deploy.server.jobs import Job
from ese_deploy.server.keys import ApiKeys
from ese_deploy.server.loading import load_catalog
from ese_deploy.server.logs import log_event
from ese_deploy.server.metrics import Metrics
from ese_deploy.server.queue import QueueFullError, retry_after
from ese_deploy.server.scheduler import Scheduler
from ese_deploy.server.settings import ServeSettings
from ese_deploy.system.threads import available_threads

__all__ = ["Service", "threads_of"]

_T = TypeVar("_T")


def threads_of(settings: ServeSettings) -> int:
    """Threads that compute in each process."""
    return settings.threads or max(1, available_threads() // settings.workers)


class Service:
    """The state of a server process. Its methods run on the event loop.

    Args:
        settings: of the server.
        keys: API keys.
        catalog: the models.
    """

    def __init__(self, settings: ServeSettings, keys: ApiKeys, catalog: Catalog) -> None:
        self.settings = settings
        self.keys = keys
        self.catalog = catalog
        self.metrics = Metrics()
        limits = settings.limits
        self.scheduler = Scheduler(asyncio.get_running_loop(), limits.queue_tokens, limits.timeout, self.metrics)
        # One thread: the memory of tokenizing long texts is needed once.
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self.draining = False
        self.in_flight = 0
        self.reload: Callable[[], Awaitable[None]] = self.reload_here
        self._reloading = asyncio.Lock()
        self.scheduler.start()

    def close(self) -> None:
        """Stop the threads."""
        self.scheduler.stop()
        self.tokenizing.shutdown(cancel_futures=True)

    async def run_tokenizing(self, function: Callable[[], _T]) -> _T:
        """Call a function outside the event loop, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self.tokenizing, function)

    async def resolve(self, wanted: Wanted) -> tuple[ServedBundle, ServedTarget]:
        """Find the bundle and target of a request.

        Raises:
            ApiError: 400 with what there is.
        """
        if wanted.max_latency_ms is None and wanted.min_quality is None:
            return self.catalog.resolve(wanted)
        # Reads the measurements of this machine.
        return await asyncio.to_thread(self.catalog.resolve, wanted)

    async def embed(
        self, call: Call, target: ServedTarget, tokenized: TokenizedInput, shallower: Sequence[ServedTarget] = ()
    ) -> tuple[ServedTarget, NDArray[np.float32]]:
        """Embed the texts of a request.

        Args:
            call: the request.
            target: the target that it asks for.
            tokenized: its texts.
            shallower: targets that may answer instead under load, the deepest first.

        Returns:
            The target that answered, and float32 [n, dim].

        Raises:
            ApiError: 429 if the queue is full, 503 if the request only waited, 504 if the answer takes too long.
            ClientGoneError: the client closed the connection.
        """
        answering = self._degraded(target, shallower)
        recorded = call.recorded
        recorded.model, recorded.target = answering.model, answering.label
        recorded.texts, recorded.tokens, recorded.truncated = (
            len(tokenized.encodings),
            tokenized.tokens,
            tokenized.truncated,
        )
        recorded.degraded_from = None if answering is target else target.label
        try:
            job = self.scheduler.submit(answering, tokenized.encodings, recorded.key, call.seconds_left)
        except QueueFullError as error:
            raise self._full(error) from None
        return answering, await self._wait(call, job)

    def check_queue(self, call: Call) -> None:
        """Refuse a request before its body is read and tokenized, if the queue would not take it.

        Raises:
            ApiError: 429: the queue is full.
        """
        try:
            self.scheduler.check(call.recorded.key)
        except QueueFullError as error:
            raise self._full(error) from None

    def _full(self, error: QueueFullError) -> ApiError:
        seconds = retry_after(error)
        return ApiError(
            429,
            f"The queue is full: {self.scheduler.waiting_tokens} tokens wait. Try again in {seconds} s.",
            code="queue_full",
            headers={"retry-after": seconds},
        )

    def _degraded(self, target: ServedTarget, others: Sequence[ServedTarget]) -> ServedTarget:
        """The target, or a shallower one the fuller the queue is beyond its half."""
        excess = self.scheduler.fill - 0.5
        if excess < 0 or not others:
            return target
        return others[min(len(others) - 1, int(excess * 2 * len(others)))]

    async def _wait(self, call: Call, job: Job) -> NDArray[np.float32]:
        def leave(_: "asyncio.Future[object]") -> None:
            if not job.future.done():
                job.future.set_exception(ClientGoneError())

        # After the body, the next message is that the client has closed the connection.
        gone = asyncio.ensure_future(call.receive())
        gone.add_done_callback(leave)
        try:
            async with asyncio.timeout(max(0.0, call.seconds_left)):
                return await job.future
        except TimeoutError:
            if not job.future.cancelled() and job.future.exception() is None:
                return job.future.result()  # it came while the event loop was busy
            if not job.started:  # the machine became slower than predicted
                raise ApiError(
                    503,
                    f"The request waited for {call.timeout:g} seconds. Try again later.",
                    code="overloaded",
                    headers={"retry-after": str(math.ceil(call.timeout))},
                ) from None
            raise ApiError(
                504, f"No answer within {call.timeout:g} seconds. Send fewer texts, or try later.", code="timeout"
            ) from None
        finally:
            gone.remove_done_callback(leave)
            gone.cancel()
            self.scheduler.abandon(job)

    async def reload_here(self) -> None:
        """Open the bundles again, and serve them from the next request on.

        Raises:
            EseDeployError: they cannot be opened; the server goes on with those that it has.
        """
        async with self._reloading:
            started = time.perf_counter()
            try:
                catalog = await asyncio.to_thread(load_catalog, self.settings, threads_of(self.settings))
            except EseDeployError as error:
                log_event("reload failed; the bundles stay as they are", logging.ERROR, error=str(error))
                raise
            self.catalog = catalog
            log_event("reloaded", seconds=round(time.perf_counter() - started, 3))
