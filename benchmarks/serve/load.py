"""Open-loop load: requests start on schedule, whether or not earlier ones are answered.

Latency counts from the scheduled start. A closed loop would wait for a slow server, and so hide its queue.
"""

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.serve.client import Client, Reply, embeddings_request
from ese_deploy.report.files import ServeFile, ServeStep

__all__ = ["Plan", "cpu_seconds", "measure", "numbered_texts"]

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Plan:
    """What is asked of a server.

    Attributes:
        url: of the server.
        model: model name of the requests.
        rates: requests a second, one step for each.
        seconds: length of a step.
        texts: texts of a request.
        words: words of a text.
        key: API key.
        pid: process of the server, whose CPU time is counted with that of its children.
        seed: of the schedule.
    """

    url: str
    model: str
    rates: tuple[float, ...]
    seconds: float = 20.0
    texts: int = 1
    words: int = 16
    key: str | None = None
    pid: int | None = None
    seed: int = 1


def numbered_texts(count: int, words: int, seed: int = 1) -> list[str]:
    """Texts of this many words that all differ: each begins with its number."""
    chance = random.Random(seed)
    known = [
        "river",
        "garden",
        "window",
        "letter",
        "market",
        "season",
        "bridge",
        "winter",
        "candle",
        "station",
        "valley",
    ]
    return [" ".join([f"text {number}", *chance.choices(known, k=max(0, words - 2))]) for number in range(count)]


def measure(plan: Plan, expected: NDArray[np.float32] | None = None, pool: Sequence[str] = ()) -> ServeFile:
    """Measure a server at each rate.

    Args:
        plan: what to ask.
        expected: vectors of ``pool``, to check the answers with.
        pool: texts to draw from. Default: 512 numbered texts.

    Returns:
        What a results file holds.
    """
    texts = list(pool) or numbered_texts(512, plan.words)
    steps = [asyncio.run(_step(plan, rate, texts, expected)) for rate in plan.rates]
    return ServeFile({**asdict(plan), "key": None}, steps)


async def _step(plan: Plan, rate: float, texts: Sequence[str], expected: NDArray[np.float32] | None) -> ServeStep:
    chance = random.Random(f"{plan.seed} {rate}")
    # Exponential gaps: as many independent clients would send.
    starts, at = [], 0.0
    while (at := at + chance.expovariate(rate)) < plan.seconds:
        starts.append(at)
    rows = [[chance.randrange(len(texts)) for _ in range(plan.texts)] for _ in starts]
    requests = [embeddings_request(plan.url, plan.model, [texts[row] for row in chosen], plan.key) for chosen in rows]
    client = Client(plan.url)
    tasks, late = [], []
    cpu = cpu_seconds(plan.pid)
    begin = time.perf_counter() + 0.1
    for start, request in zip(starts, requests, strict=True):
        wait = begin + start - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        late.append(max(0.0, time.perf_counter() - begin - start))
        tasks.append(asyncio.create_task(client.send(request)))
    replies = await asyncio.gather(*tasks)
    spent = None if cpu is None else (cpu_seconds(plan.pid) or 0.0) - cpu
    client.close()
    good = [number for number, reply in enumerate(replies) if reply.status == 200]
    latencies = [(replies[number].finished - begin - starts[number]) * 1000 for number in good]
    end = max((reply.finished for reply in replies), default=begin) - begin
    p50, p99 = np.percentile(latencies, [50, 99]).tolist() if latencies else (None, None)
    wrong = None if expected is None else sum(not _right(replies[one], expected[rows[one]]) for one in good)
    return ServeStep(
        rate=rate,
        requests=len(replies),
        statuses=dict(Counter(str(reply.status) for reply in replies)),
        texts_per_second=len(good) * plan.texts / end if end > 0 else 0.0,
        p50_ms=p50,
        p99_ms=p99,
        wrong=wrong,
        cpu_seconds=spent,
        late_ms=float(np.percentile(late, 99)) * 1000 if late else 0.0,
    )


def _right(reply: Reply, expected: NDArray[np.float32]) -> bool:
    data = json.loads(reply.body)["data"]
    found = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in data])
    return found.shape == expected.shape and float(np.abs(found - expected).max()) <= _TOLERANCE


def cpu_seconds(pid: int | None) -> float | None:
    """CPU time of a process and its children."""
    if pid is None:
        return None
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))
