"""One comparison: ``ese-deploy serve`` with the library and with servers of other projects, on the same cores.

The contenders take turns in each round, and the servers that do not have their turn are stopped, so that a machine that
becomes slower slows all of them. Medians of the rounds are kept.
"""

import asyncio
import base64
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.serve.closed import Measured, saturate
from benchmarks.serve.contenders import Contender
from benchmarks.serve.load import Plan, measure, numbered_texts
from ese_deploy import Encoder
from ese_deploy.report.files import ServeFile

__all__ = ["Comparison", "Goal", "Settings", "Throughput", "compare", "goals_of"]

_EXACT = 1e-6
# Cosines of texts by another framework: float32 in another order.
_LIKE = 1e-3
_POOL = 256
_CONNECTIONS = {1: 16, 32: 8}
_LOADS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Settings:
    """How long the comparison takes.

    Attributes:
        rounds: how often each contender has its turn.
        seconds: of a turn.
        step_seconds: of a step of the measurement of latency.
        words: words of a text.
        threads: threads that the library computes with.
    """

    rounds: int = 3
    seconds: float = 2.5
    step_seconds: float = 4.0
    words: int = 16
    threads: int = 1


class Throughput(msgspec.Struct, frozen=True):
    """What a contender answered with closed-loop clients.

    Attributes:
        name: of the contender.
        texts: texts of a request.
        texts_per_second: median of the rounds, by wall time. The load generator runs on the same cores.
        texts_per_cpu_second: median, by CPU time of the server.
        library_share: ``texts_per_second`` as a share of the library's with the same target; None for other projects.
        library_cpu_share: ``texts_per_cpu_second`` as a share of the library's.
        difference: largest difference from the library's vectors; for other projects, of the cosines of 32 texts from
            those of the full model.
        failed: answers other than 200.
        rounds: texts per second of each round.
    """

    name: str
    texts: int
    texts_per_second: float
    texts_per_cpu_second: float
    library_share: float | None
    library_cpu_share: float | None
    difference: float
    failed: int
    rounds: list[float]


class Goal(msgspec.Struct, frozen=True):
    """A goal of the server and what was measured."""

    text: str
    goal: float
    value: float
    met: bool


class Comparison(msgspec.Struct, frozen=True):
    """All figures of a comparison.

    Attributes:
        machine: processor, cores and load average at the start and the end.
        throughput: of each contender and number of texts.
        library: texts per second of the library by target and number of texts.
        latency: open-loop steps of single texts, by contender.
        goals: what was to be reached.
        problems: wrong vectors and failed requests; empty if there are none.
    """

    machine: dict[str, str]
    throughput: list[Throughput]
    library: dict[str, float]
    latency: dict[str, ServeFile]
    goals: list[Goal]
    problems: list[str]


class _Library:
    """The library in this process."""

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        self._encoder = encoder
        self._texts = texts
        self.expected: NDArray[np.float32] = encoder.encode(list(texts))

    def measure(self, count: int, seconds: float) -> tuple[float, float]:
        """Texts per second of wall time and of CPU time, ``count`` at a time."""
        started, cpu, done = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() < started + seconds:
            row = done % (len(self._texts) - count + 1)
            self._encoder.encode(list(self._texts[row : row + count]))
            done += count
        return done / (time.perf_counter() - started), done / (time.process_time() - cpu)


def compare(bundle: Path, contenders: Sequence[Contender], full: str, settings: Settings) -> Comparison:
    """Measure running servers.

    Args:
        bundle: with the targets of our contenders.
        contenders: the servers.
        full: the target of the whole model in fp32.
        settings: how long it takes.
    """
    machine = {
        "processor": _processor(),
        "cores": str(len(psutil.Process().cpu_affinity() or [])),
        "load at start": _load(),
    }
    texts = numbered_texts(_POOL, settings.words)
    targets = list(dict.fromkeys([full, *(one.target for one in contenders if one.target)]))
    known = {one: _Library(Encoder.open(bundle, one, threads=settings.threads), texts) for one in targets}
    lines: dict[tuple[str, int], list[Measured]] = {}
    libraries: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(settings.rounds):
        for count, connections in _CONNECTIONS.items():
            rows = range(0, _POOL - count + 1, count)
            for one in contenders:
                requests = [one.request(texts[row : row + count]) for row in rows]
                with one.only(contenders):
                    found = asyncio.run(saturate(one.url, one.pid, requests, connections, settings.seconds))
                lines.setdefault((one.name, count), []).append(found)
            with contenders[0].only(contenders):
                for target, library in known.items():
                    libraries.setdefault((target, count), []).append(library.measure(count, settings.seconds / 2))
    throughput = [
        _throughput(one, count, lines[one.name, count], libraries, known, full)
        for count in _CONNECTIONS
        for one in contenders
    ]
    latency = _latency(contenders, throughput, full, settings)
    machine["load at end"] = _load()
    return Comparison(
        machine,
        throughput,
        {
            f"{target}, {count}": float(np.median([wall for wall, _ in found]))
            for (target, count), found in libraries.items()
        },
        latency,
        goals_of(throughput, latency),
        _problems(throughput),
    )


def _throughput(
    one: Contender,
    count: int,
    found: Sequence[Measured],
    libraries: Mapping[tuple[str, int], Sequence[tuple[float, float]]],
    known: Mapping[str, _Library],
    full: str,
) -> Throughput:
    rounds = [len(each.answers) * count / each.seconds for each in found]
    wall = float(np.median(rounds))
    cpu = float(np.median([len(each.answers) * count / max(each.cpu_seconds, 1e-9) for each in found]))
    shares: tuple[float | None, float | None] = (None, None)
    if one.target is not None:
        walls, cpus = zip(*libraries[one.target, count], strict=True)
        shares = (wall / float(np.median(walls)), cpu / float(np.median(cpus)))
    expected = known[one.target or full].expected
    answers = [answer for each in found for answer in each.answers]
    return Throughput(
        one.name,
        count,
        wall,
        cpu,
        *shares,
        difference=_difference(answers, count, expected, exact=one.target is not None),
        failed=sum(each.failed for each in found),
        rounds=rounds,
    )


def _difference(
    answers: Sequence[tuple[int, bytes]], count: int, expected: NDArray[np.float32], *, exact: bool
) -> float:
    """The largest difference: of vectors, or of cosines, where the vectors may be rotated."""
    chosen: dict[int, bytes] = dict(answers)
    numbers = sorted(chosen)
    if not numbers:
        return float("inf")
    found = np.concatenate([_vectors(chosen[number]) for number in numbers])
    wanted = np.concatenate([expected[number * count : (number + 1) * count] for number in numbers])
    if found.shape[0] != wanted.shape[0]:
        return float("inf")
    if exact:
        # Every answer, not only the last to each request.
        each = [
            np.abs(_vectors(body) - expected[number * count : (number + 1) * count]).max() for number, body in answers
        ]
        return float(max(each))
    return float(np.abs(found[:32] @ found[:32].T - wanted[:32] @ wanted[:32].T).max())


def _vectors(body: bytes) -> NDArray[np.float32]:
    rows = [row["embedding"] for row in json.loads(body)["data"]]
    return np.stack(
        [np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else np.float32(row) for row in rows]
    )


def _latency(
    contenders: Sequence[Contender], throughput: Sequence[Throughput], full: str, settings: Settings
) -> dict[str, ServeFile]:
    """Steps at shares of what each full model answers, and at half of what the slowest other project answers."""
    compared = [one for one in contenders if one.target in (None, full)]
    most = {one.name: one.texts_per_second for one in throughput if one.texts == 1}
    others = [most[one.name] / 2 for one in compared if one.target is None]
    found = {}
    for one in compared:
        rates = sorted({*others, *(most[one.name] * load for load in _LOADS)})
        plan = Plan(one.url, one.model, tuple(rates), settings.step_seconds, 1, settings.words, pid=one.pid)
        with one.only(contenders):
            found[one.name] = measure(plan)
    return found


def goals_of(throughput: Sequence[Throughput], latency: Mapping[str, ServeFile]) -> list[Goal]:
    """What the server is to reach; goals of contenders that did not run are left out."""
    by = {(one.name, one.texts): one for one in throughput}
    found: list[Goal] = []

    def add(text: str, goal: float, value: float | None, *, most: bool = False) -> None:
        if value is not None:
            found.append(Goal(text, goal, value, value <= goal if most else value >= goal))

    for (name, count), one in by.items():
        if count == 32:
            add(f"{name}: share of the library's texts/s at 32 texts a request", 0.95, one.library_share)
        elif name.startswith("ese-deploy 3x128"):
            add(f"{name}: share of the library's texts/s at single texts", 0.85, one.library_share)
        elif name.startswith(("ese-deploy 1x", "ese-deploy 0x")):
            add(f"{name}: requests per second of CPU time", 2000, one.texts_per_cpu_second)
    full = [name for name, count in by if name in latency and count == 32 and name.startswith("ese-deploy")]
    quantized = [name for name, count in by if name.endswith(":int8") and count == 32]
    for other, fp32, int8 in (("infinity", 2.0, 4.0), ("FastAPI + sentence-transformers", 3.0, None)):
        for names, least in ((full, fp32), (quantized, int8)):
            for name in names if least is not None and (other, 32) in by else ():
                for count in (32, 1):
                    ratio = by[name, count].texts_per_second / max(by[other, count].texts_per_second, 1e-9)
                    add(f"{name}: texts/s as a multiple of {other}, texts a request: {count}", least or 0, ratio)
    for name in full:
        for other in set(latency) - set(full):
            half = by[other, 1].texts_per_second / 2
            ours, theirs = (
                next((step.p99_ms for step in latency[one].steps if step.rate == half), None) for one in (name, other)
            )
            if ours is not None and theirs:
                add(f"{name}: p99 as a share of {other}'s at its half load", 1.0, ours / theirs, most=True)
    return found


def _problems(throughput: Sequence[Throughput]) -> list[str]:
    found = []
    for one in throughput:
        tolerance = _LIKE if one.library_share is None else _EXACT
        if not one.difference <= tolerance:
            found.append(
                f"{one.name}, {one.texts} texts: vectors differ by {one.difference:.1e}, allowed {tolerance:.0e}"
            )
        if one.failed:
            found.append(f"{one.name}, {one.texts} texts: {one.failed} requests failed")
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _load() -> str:
    return ", ".join(f"{value:.1f}" for value in psutil.getloadavg())
