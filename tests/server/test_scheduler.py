"""The queue: fairness, pieces, limits, and what happens to requests that nobody waits for."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ese_deploy.server.errors import ApiError
from ese_deploy.server.jobs import Job
from ese_deploy.server.queue import QueueFullError, retry_after
from ese_deploy.server.scheduler import Scheduler


@dataclass(eq=False)
class FakeLane:
    """Embeds a list of numbers as its first number; waits until it may."""

    name: str = "lane"
    tokens: int = 8
    warm_cost: float = 1 / 5000
    batches: list[list[int]] = field(default_factory=list)
    may: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    broken: bool = False

    def embed(self, encodings: list[list[int]]) -> np.ndarray:
        self.entered.release()
        assert self.may.acquire(timeout=10)
        self.batches.append([encoding[0] for encoding in encodings])
        if self.broken:
            raise RuntimeError("out of order")
        return np.array([[encoding[0]] for encoding in encodings], np.float32)


@dataclass(eq=False)
class FakeTarget:
    lane: FakeLane

    def cut(self, vectors: np.ndarray) -> np.ndarray:
        return vectors


class Silent:
    def batch(self, *_: object) -> None:
        pass


def texts(*numbers: int, length: int = 1) -> list[list[int]]:
    return [[number] * length for number in numbers]


Submit = Callable[..., Job]


def play(
    script: Callable[[Scheduler, Submit, FakeLane], Coroutine[Any, Any, None]],
    limit: int = 100,
    lane: FakeLane | None = None,
    timeout: float = 60.0,
) -> FakeLane:
    """Run a script while the first batch is being computed."""
    lane = lane or FakeLane()

    async def main() -> None:
        scheduler = Scheduler(asyncio.get_running_loop(), limit, timeout, Silent())
        target: Any = FakeTarget(lane)
        scheduler.start()

        def submit(encodings: list[list[int]], client: str = "", to: Any = None) -> Job:
            return scheduler.submit(to or target, encodings, client)

        first = submit(texts(0))
        await asyncio.to_thread(lane.entered.acquire)
        await script(scheduler, submit, lane)
        for _ in range(100):
            lane.may.release()
        if not lane.broken:
            assert (await first.future).tolist() == [[0]]
        scheduler.stop()

    asyncio.run(main())
    return lane


async def answers(*jobs: Job) -> list[list[int]]:
    return [[int(value) for value in (await job.future)[:, 0]] for job in jobs]


def release(lane: FakeLane) -> None:
    for _ in range(50):
        lane.may.release()


def test_a_free_worker_takes_everything_that_waits() -> None:
    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        jobs = [submit(texts(1)), submit(texts(2, 3)), submit(texts(4))]
        assert (scheduler.waiting_texts, scheduler.waiting_tokens) == (4, 4)
        release(lane)
        assert await answers(*jobs) == [[1], [2, 3], [4]]
        assert (scheduler.waiting_texts, scheduler.waiting_tokens) == (0, 0)

    assert play(script).batches == [[0], [1, 2, 3, 4]]


def test_answers_are_in_the_order_of_the_texts_whatever_their_lengths() -> None:
    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        job = submit([[number] * length for number, length in enumerate((1, 5, 2, 4, 3), start=1)])
        release(lane)
        assert await answers(job) == [[1, 2, 3, 4, 5]]

    # 8 tokens a batch; pieces of 2 tokens or one text, the longest first.
    assert play(script).batches == [[0], [2, 4], [5, 3, 1]]


def test_a_long_request_lets_others_through() -> None:
    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        long, short = submit(texts(*range(100, 140))), submit(texts(1))
        release(lane)
        assert await answers(short, long) == [[1], list(range(100, 140))]

    batches = play(script).batches
    assert 1 in batches[1]
    assert [len(batch) for batch in batches] == [1, 8, 8, 8, 8, 8, 1]


def test_keys_take_turns() -> None:
    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        many = [submit(texts(100 + number), "greedy") for number in range(20)]
        few = [submit(texts(number), "modest") for number in range(1, 4)]
        release(lane)
        await answers(*many, *few)

    assert {1, 2, 3} <= set(play(script).batches[1])


def test_graphs_take_turns() -> None:
    other = FakeLane("other")
    before: list[int] = []
    embed = other.embed

    def note(encodings: list[list[int]]) -> np.ndarray:
        before.append(len(lane.batches))
        return embed(encodings)

    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        many = submit(texts(*range(100, 130)))
        one = submit(texts(1), to=FakeTarget(other))
        release(lane)
        release(other)
        await answers(one, many)

    lane = FakeLane()
    other.embed = note  # type: ignore[method-assign]
    play(script, lane=lane)
    assert other.batches == [[1]]
    assert before[0] < 3 < len(lane.batches)


def test_a_full_queue_says_when_it_has_room() -> None:
    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        submit(texts(*range(1, 10)))
        with pytest.raises(QueueFullError) as caught:
            submit(texts(1, 2))
        assert caught.value.seconds > 0
        assert int(retry_after(caught.value)) >= 1
        submit(texts(1))
        assert scheduler.fill == 1

    play(script, limit=10)


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        job = submit(texts(*range(50)))
        release(lane)
        assert await answers(job) == [list(range(50))]

    play(script, limit=10)


def test_an_abandoned_request_is_not_computed() -> None:
    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        gone, other = submit(texts(1, 2)), submit(texts(3))
        scheduler.abandon(gone)
        scheduler.abandon(gone)
        assert (scheduler.waiting_texts, scheduler.waiting_tokens) == (1, 1)
        release(lane)
        assert await answers(other) == [[3]]

    assert play(script).batches == [[0], [3]]


def test_the_rest_of_a_long_request_is_left_out_when_it_is_abandoned() -> None:
    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        long = submit(texts(*range(100, 140)))
        lane.may.release()
        await asyncio.to_thread(lane.entered.acquire)
        scheduler.abandon(long)
        assert scheduler.waiting_tokens == 0
        release(lane)
        assert await answers(submit(texts(1))) == [[1]]

    assert [len(batch) for batch in play(script).batches] == [1, 8, 1]


def test_a_batch_that_fails_fails_its_requests_only() -> None:
    broken = FakeLane("broken", broken=True)

    async def script(scheduler: Scheduler, submit: Submit, lane: FakeLane) -> None:
        bad, good = submit(texts(*range(20)), to=FakeTarget(broken)), submit(texts(7))
        release(lane)
        release(broken)
        with pytest.raises(ApiError, match="out of order"):
            await bad.future
        assert await answers(good) == [[7]]
        assert scheduler.waiting_tokens == 0

    play(script)
