"""Minutes of twice the load that a server can take, with mixed targets: nothing crashes, gets lost or mixed up."""

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.serve.client import Client, Reply, embeddings_request
from benchmarks.serve.load import numbered_texts
from ese_deploy import Encoder

__all__ = ["Mix", "SoakResult", "Target", "judge", "mix_of", "soak"]

_TOLERANCE = 1e-6
_CLIENTS = 16
_ALLOWED = {"200", "429", "503"}
# Memory is compared from the second minute on, by medians of so many samples of one second.
_SAMPLES = 20
_WARM_SECONDS = 60
_GROWTH = 0.05


@dataclass(frozen=True)
class Target:
    """A target of the mix.

    Attributes:
        model: its model name on the server.
        expected: the library's vectors of the texts, float32 [n, dim].
    """

    model: str
    expected: NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """A request and what its answer must hold."""

    data: bytes
    target: Target
    rows: list[int]

    def right(self, reply: Reply) -> bool:
        """Whether the answer holds the vectors of these texts by this target."""
        answer = json.loads(reply.body)
        found = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in answer["data"]]
        expected = self.target.expected[self.rows]
        return (
            answer["model"] == self.target.model
            and [row["index"] for row in answer["data"]] == list(range(len(self.rows)))
            and np.shape(found) == expected.shape
            and float(np.abs(np.stack(found) - expected).max()) <= _TOLERANCE
        )


Mix = Sequence[Request]


class SoakResult(msgspec.Struct, frozen=True):
    """What happened.

    Attributes:
        saturation: requests a second that closed-loop clients got answered before.
        rate: requests a second that were sent.
        seconds: how long.
        requests: how many.
        statuses: how many answers had each status; 0 is a connection that was closed.
        wrong: answers whose vectors differ from the library's by more than 1e-6, or belong to other texts.
        bad_retry_after: refusals without a sensible ``Retry-After``.
        p50_ms: median latency of what was answered with 200, from the scheduled start.
        p99_ms: 99th percentile.
        late_ms: 99th percentile of how late the generator was.
        rss_mb: resident memory of the server in MB, one figure a second.
        growth: of the memory after the first minute, as a share; None if the run was too short.
        problems: why the run failed; empty if it did not.
    """

    saturation: float
    rate: float
    seconds: float
    requests: int
    statuses: dict[str, int]
    wrong: int
    bad_retry_after: int
    p50_ms: float
    p99_ms: float
    late_ms: float
    rss_mb: list[float]
    growth: float | None
    problems: list[str]


def mix_of(url: str, bundle: Path, name: str, targets: Sequence[str], count: int = 2000, seed: int = 1) -> Mix:
    """Requests of 1 to 8 numbered texts for each of the targets."""
    texts = numbered_texts(512, 16)
    known = [Target(f"{name}:{target}", Encoder.open(bundle, target).encode(texts)) for target in targets]
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        target = chance.choice(known)
        rows = [chance.randrange(len(texts)) for _ in range(chance.choice([1, 1, 1, 2, 4, 8]))]
        found.append(Request(embeddings_request(url, target.model, [texts[row] for row in rows]), target, rows))
    return found


@dataclass
class _Tally:
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    bad_retry_after: int = 0
    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)

    def add(self, request: Request, reply: Reply, start: float) -> None:
        self.statuses[str(reply.status)] += 1
        if reply.status == 200:
            self.latencies.append((reply.finished - start) * 1000)
            self.wrong += not request.right(reply)
        elif reply.status in (429, 503):
            self.bad_retry_after += not 1 <= int(reply.headers.get("retry-after", "0")) <= 3600


async def _saturation(url: str, mix: Mix, seconds: float) -> float:
    client, end = Client(url), time.perf_counter() + seconds
    answered = 0

    async def one(number: int) -> None:
        nonlocal answered
        chance = random.Random(number)
        while time.perf_counter() < end:
            reply = await client.send(chance.choice(mix).data)
            answered += reply.status == 200

    await asyncio.gather(*(one(number) for number in range(_CLIENTS)))
    client.close()
    return answered / seconds


async def soak(
    url: str, mix: Mix, seconds: float, rss: Callable[[], int], alive: Callable[[], bool], factor: float = 2.0
) -> SoakResult:
    """Measure the saturation, then send ``factor`` times as many requests, whether or not earlier ones are answered.

    Args:
        url: of the server.
        mix: requests to draw from.
        seconds: length of the run.
        rss: gives the server's memory in bytes.
        alive: says whether the server runs.
        factor: load as a multiple of the saturation.
    """
    saturation = await _saturation(url, mix, min(10.0, max(1.0, seconds / 10)))
    rate, chance, tally, client = saturation * factor, random.Random(7), _Tally(), Client(url)
    begin = time.perf_counter()
    tasks: set[asyncio.Task[None]] = set()

    async def one(request: Request, start: float) -> None:
        tally.add(request, await client.send(request.data), start)

    at, sampled = 0.0, 0
    while (at := at + chance.expovariate(rate)) < seconds and alive():
        wait = begin + at - time.perf_counter()
        await asyncio.sleep(max(0.0, wait))
        tally.late.append(max(0.0, -wait) * 1000)
        if at > sampled:
            tally.rss_mb.append(rss() / 1e6)
            sampled += 1
        task = asyncio.create_task(one(chance.choice(mix), begin + at))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=120)
    unanswered = len(tasks)
    client.close()
    p50, p99 = np.percentile(tally.latencies or [0.0], [50, 99]).tolist()
    steady = tally.rss_mb[_WARM_SECONDS:]
    growth = None
    if len(steady) >= 2 * _SAMPLES:
        growth = float(np.median(steady[-_SAMPLES:]) / np.median(steady[:_SAMPLES]) - 1)
    return SoakResult(
        saturation=saturation,
        rate=rate,
        seconds=seconds,
        requests=sum(tally.statuses.values()) + unanswered,
        statuses=dict(tally.statuses),
        wrong=tally.wrong,
        bad_retry_after=tally.bad_retry_after,
        p50_ms=p50,
        p99_ms=p99,
        late_ms=float(np.percentile(tally.late or [0.0], 99)),
        rss_mb=[round(value, 1) for value in tally.rss_mb],
        growth=growth,
        problems=judge(tally.statuses, tally.wrong, tally.bad_retry_after, unanswered, growth, alive()),
    )


def judge(
    statuses: Counter[str], wrong: int, bad_retry_after: int, unanswered: int, growth: float | None, alive: bool
) -> list[str]:
    """Why a run failed."""
    others = {status: count for status, count in statuses.items() if status not in _ALLOWED}
    found = [
        (not alive, "the server has ended"),
        (bool(others), f"answers other than {', '.join(sorted(_ALLOWED))}: {others}"),
        (not statuses["200"], "no request was answered with 200"),
        (wrong > 0, f"{wrong} answers are wrong"),
        (bad_retry_after > 0, f"{bad_retry_after} refusals have no Retry-After from 1 to 3600"),
        (unanswered > 0, f"{unanswered} requests were not answered"),
        (growth is not None and growth >= _GROWTH, f"memory grew by {growth or 0:.1%} after the first minute"),
    ]
    return [text for failed, text in found if failed]
