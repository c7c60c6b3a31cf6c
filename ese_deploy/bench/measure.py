"""Timing targets side by side for the choice of one: one text length, a fixed number of rounds."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ese_deploy.bench.memory import measure_memory
from ese_deploy.bench.rounds import Stop, interleave
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose.budgets import Case
from ese_deploy.choose.measurements import Kind, Measurement
from ese_deploy.engines import load_engine
from ese_deploy.errors import InputError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.progress import Progress, silent
from ese_deploy.system.threads import available_threads

__all__ = ["BATCH", "Effort", "measure", "text_of"]

BATCH = 32

# Encoders that are open at once may hold about this much of weights, pre-packed copies not counted.
_GROUP_BYTES = 1 << 30
_WARM_UP = 3


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: how often each target's turn comes.
        calls: single texts timed in each turn.
    """

    rounds: int = 10
    calls: int = 10


def measure(
    bundle: Bundle,
    entries: Sequence[TargetEntry],
    kind: Kind,
    case: Case,
    engine: str = "onnxruntime",
    effort: Effort | None = None,
    progress: Progress = silent,
) -> list[Measurement]:
    """Measure targets of a bundle, from text to vector.

    Args:
        bundle: the bundle.
        entries: the targets.
        kind: ``latency`` of one text, ``throughput`` in batches of 32 texts, ``memory`` of a process of its own.
        case: tokens of each text, and threads.
        engine: the engine.
        effort: how long to measure.
        progress: called after each turn.

    Raises:
        InputError: no text of that many tokens can be made, or it is longer than the model takes.
        EngineError: the engine is missing or failed.
    """
    effort = effort or Effort()
    text = text_of(bundle, case.tokens)
    threads = case.threads or available_threads()
    versions = load_engine(engine).versions

    def result(entry: TargetEntry, runs: int, values: dict[str, float]) -> Measurement:
        return Measurement(entry.name, engine, versions, kind, case.tokens, threads, runs, values)

    if kind == "memory":
        found = []
        for done, entry in enumerate(entries, start=1):
            found.append(result(entry, 1, measure_memory(bundle, entry.target, engine, threads, text)))
            progress("measure memory", done, len(entries))
        return found
    turn = _time_texts if kind == "latency" else _time_batches
    summary = _percentiles if kind == "latency" else _rate
    timings = _interleave(
        bundle, entries, engine, threads, lambda encoder: turn(encoder, text, effort), effort, kind, progress
    )
    return [result(entry, len(times), summary(times)) for entry, times in timings]


def text_of(bundle: Bundle, tokens: int) -> str:
    """A text of exactly ``tokens`` tokens, special tokens included.

    Raises:
        InputError: the model takes no text of that length.
    """
    tokenizer = load_tokenizer(bundle)

    def count(text: str) -> int:
        return len(tokenizer.tokenizer.encode(text).ids)

    # A tokenizer without special tokens gives the empty text none.
    least, longest = max(1, count("")), bundle.manifest.max_seq_length
    if not least <= tokens <= longest:
        raise InputError(f"a text of {tokens} tokens cannot be timed; {bundle.path} takes {least} to {longest}")
    words = ["a"] * (tokens - least)
    while words and count(" ".join(words)) > tokens:
        words.pop()
    while count(" ".join([*words, "a"])) <= tokens and len(words) < 4 * tokens and count(" ".join(words)) < tokens:
        words.append("a")
    return " ".join(words)


def _interleave(
    bundle: Bundle,
    entries: Sequence[TargetEntry],
    engine: str,
    threads: int,
    turn: Callable[[Encoder], list[float]],
    effort: Effort,
    kind: str,
    progress: Progress,
) -> list[tuple[TargetEntry, list[float]]]:
    found: list[tuple[TargetEntry, list[float]]] = []
    groups = list(_groups(entries))
    done = 0
    progress(f"measure {kind}", 0, effort.rounds * len(entries))
    for group in groups:
        encoders = [Encoder.open(bundle, entry.target, engine=engine, threads=threads) for entry in group]
        turns = [functools.partial(turn, encoder) for encoder in encoders]
        share = effort.rounds * len(group)

        def advance(used: float, before: int = done, share: int = share) -> None:
            progress(f"measure {kind}", before + round(used * share), effort.rounds * len(entries))

        timed = interleave(turns, Stop(effort.rounds, effort.rounds), advance, _WARM_UP)
        found += [(entry, list(itertools.chain(*rounds))) for entry, rounds in zip(group, timed, strict=True)]
        done += share
    return found


def _groups(entries: Sequence[TargetEntry]) -> Iterator[list[TargetEntry]]:
    group: list[TargetEntry] = []
    held = 0
    for entry in entries:
        if group and held + entry.weight_bytes > _GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(entry)
        held += entry.weight_bytes
    if group:
        yield group


def _time_texts(encoder: Encoder, text: str, effort: Effort) -> list[float]:
    times = []
    for _ in range(effort.calls):
        start = time.perf_counter()
        encoder.encode(text)
        times.append(time.perf_counter() - start)
    return times


def _time_batches(encoder: Encoder, text: str, effort: Effort) -> list[float]:
    texts = [text] * BATCH
    start = time.perf_counter()
    encoder.encode(texts)
    return [time.perf_counter() - start]


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(times, [50, 95, 99]).tolist()
    return {"p50": p50, "p95": p95, "p99": p99}


def _rate(times: Sequence[float]) -> dict[str, float]:
    return {"texts_per_second": BATCH / statistics.median(times)}
