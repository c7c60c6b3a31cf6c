"""Overload, with an engine and a clock that are simulated: who is let in is answered in time."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ese_deploy.server.jobs import Job
from ese_deploy.server.queue import Queue, QueueFullError, retry_after

TIMEOUT = 10.0


@dataclass(eq=False)
class FakeLane:
    name: str = "lane"
    cost: float = 1 / 1000
    tokens: int = 1024
    warm_cost: float = 1 / 200


@dataclass(eq=False)
class FakeTarget:
    lane: FakeLane

    def cut(self, vectors: np.ndarray) -> np.ndarray:
        return vectors


@dataclass
class Simulation:
    """One worker with known costs. Time passes only where the worker computes or nothing waits."""

    limit: int = 10**9
    overhead: float = 0.01
    now: float = 0.0
    finished: dict[Job, float] = field(default_factory=dict)
    refused: list[QueueFullError] = field(default_factory=list)
    busy: float = 0.0
    slow_after: float = 1e9
    queue: Queue = field(init=False)

    def __post_init__(self) -> None:
        self.queue = Queue(self.limit, TIMEOUT, lambda: self.now)

    def send(self, lane: FakeLane, lengths: list[int], client: str = "", timeout: float = TIMEOUT) -> Job | None:
        target: Any = FakeTarget(lane)
        job = Job(target, [[0] * length for length in lengths], client, asyncio.Future(), self.now + timeout)
        try:
            self.queue.check(client)
            self.queue.add(job)
        except QueueFullError as error:
            self.refused.append(error)
            return None
        return job

    def compute(self) -> None:
        lane, pieces = self.queue.take()
        taken: Any = lane
        tokens = sum(int(job.lengths[rows].sum()) for job, rows in pieces)
        seconds = self.overhead + tokens * taken.cost * (1.5 if self.now > self.slow_after else 1)
        self.now += seconds
        self.busy += seconds
        for job, rows in pieces:
            if job.store(rows, np.zeros((len(rows), 1), np.float32)):
                self.finished[job] = self.now
        self.queue.done(lane, tokens, seconds)

    def play(self, arrivals: Iterator[tuple[float, FakeLane, list[int], str]]) -> list[Job]:
        """Send requests at their times, and compute until all are answered; the jobs that were let in."""
        jobs = []
        for at, lane, lengths, client in arrivals:
            while self.queue and self.now < at:
                self.compute()
            self.now = max(self.now, at)
            job = self.send(lane, lengths, client)
            if job is not None:
                jobs.append(job)
        while self.queue:
            self.compute()
        return jobs


@pytest.fixture(autouse=True)
def loop() -> Iterator[None]:
    made = asyncio.new_event_loop()
    asyncio.set_event_loop(made)
    yield
    asyncio.set_event_loop(None)
    made.close()


def requests(
    seed: int, saturation: float, seconds: float, clients: dict[str, float], lanes: list[FakeLane]
) -> Iterator[tuple[float, FakeLane, list[int], str]]:
    """Single texts and lists of them, so that ``saturation`` seconds of work come each second."""
    chance = random.Random(seed)
    at = 0.0
    while at < seconds:
        lane = chance.choice(lanes)
        count = chance.choice([1, 1, 1, 1, 1, 8, 32])
        lengths = [chance.randint(4, 64) for _ in range(count)]
        at += sum(lengths) * lane.cost / saturation
        yield at, lane, lengths, chance.choices(list(clients), list(clients.values()))[0]


@pytest.mark.parametrize("saturation", [0.7, 2, 6])
@pytest.mark.parametrize("clients", [{"": 1.0}, {"greedy": 0.9, "modest": 0.1}, dict.fromkeys("abcde", 0.2)])
@pytest.mark.parametrize("lanes", [[FakeLane()], [FakeLane(), FakeLane("deep", 1 / 500), FakeLane("small", 1e-5)]])
def test_who_is_let_in_is_answered_in_time(saturation: float, clients: dict[str, float], lanes: list[FakeLane]) -> None:
    simulation = Simulation()
    jobs = simulation.play(requests(1, saturation, 120, clients, lanes))
    assert set(simulation.finished) == set(jobs)
    assert max(simulation.finished[job] - job.deadline for job in jobs) <= 0
    if saturation > 1:  # the worker is not idle meanwhile
        assert simulation.refused and simulation.busy > 110
    else:
        assert len(simulation.refused) < 0.02 * len(jobs)
    assert simulation.queue.waiting_tokens == simulation.queue.waiting_texts == 0


def test_an_engine_that_becomes_slower_is_noticed() -> None:
    simulation = Simulation(slow_after=60)
    jobs = simulation.play(requests(2, 2, 120, {"": 1.0}, [FakeLane()]))
    assert max(simulation.finished[job] - job.deadline for job in jobs) <= 0


def test_after_the_time_that_a_refusal_names_there_is_room() -> None:
    simulation, lane = Simulation(), FakeLane()
    checked = 0
    for at, _, lengths, client in requests(3, 3, 60, {"": 1.0}, [lane]):
        while simulation.queue and simulation.now < at:
            simulation.compute()
        simulation.now = max(simulation.now, at)
        if simulation.send(lane, lengths, client) is None:
            wait = int(retry_after(simulation.refused[-1]))
            assert wait <= TIMEOUT
            end = simulation.now + wait
            while simulation.queue and simulation.now < end:
                simulation.compute()
            simulation.now = max(simulation.now, end)
            assert simulation.send(lane, lengths, client) is not None
            checked += 1
    assert checked > 3


def test_a_modest_key_is_let_in_and_served_while_another_fills_the_queue() -> None:
    simulation, lane = Simulation(), FakeLane()
    many = ((at, lane, [32] * 8, "greedy") for at in np.arange(0, 60, 0.05))
    few = ((at, lane, [32], "modest") for at in np.arange(5, 60, 2.0))
    jobs = simulation.play(iter(sorted([*many, *few], key=lambda one: one[0])))
    modest = [job for job in jobs if job.client == "modest"]
    assert len(modest) == len(np.arange(5, 60, 2.0))
    # A batch that runs and one that it shares.
    assert max(simulation.finished[job] - (job.deadline - TIMEOUT) for job in modest) < 3.0
    assert all(simulation.finished[job] <= job.deadline for job in jobs)


def test_a_request_that_takes_most_of_its_time_alone_holds_up_nobody() -> None:
    simulation, lane = Simulation(), FakeLane()
    simulation.send(lane, [100])
    simulation.compute()
    long = simulation.send(lane, [64] * 140)  # 9 of 10 seconds
    assert long is not None and long.long
    assert simulation.send(lane, [64] * 140) is None
    short = simulation.play((simulation.now + at, lane, [32], "") for at in np.arange(0, 8, 0.2))
    assert len(short) == 40
    assert all(simulation.finished[job] <= job.deadline for job in short)
    assert long in simulation.finished


def test_a_request_with_little_time_left_is_refused_where_others_wait() -> None:
    simulation, lane = Simulation(), FakeLane(warm_cost=1 / 1000)
    assert simulation.send(lane, [1000] * 2) is not None
    assert simulation.send(lane, [10], timeout=1.0) is None
    # With the whole time limit there would be room at once.
    assert retry_after(simulation.refused[-1]) == "1"
    assert simulation.send(lane, [10]) is not None


def test_nothing_is_kept_of_jobs_that_left() -> None:
    simulation, lane = Simulation(), FakeLane()
    jobs = [simulation.send(lane, [10, 20], client) for client in "aab"]
    for job in jobs:
        assert job is not None
        simulation.queue.remove(job)
        simulation.queue.remove(job)
    assert not simulation.queue
    assert (simulation.queue.waiting_tokens, simulation.queue.fill) == (0, 0)
    assert simulation.send(lane, [10]) is not None
