"""Measurements for ``choose``: targets timed side by side on one text length, in a fixed number of rounds."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from ese_deploy.bench.memory import measure_memory
from ese_deploy.bench.timing import StopRule, Timing, interleave, repeat
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines import load_engine
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import Case, Kind
from ese_deploy.measurements.store import Measurement
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.load import busy_cores, read_load
from ese_deploy.system.progress import Progress, silent
from ese_deploy.system.threads import available_threads
from ese_deploy.texts.sample import sample_corpus

__all__ = ["BATCH", "Effort", "measure", "texts_of"]

BATCH = 32

# Encoders that are open at once may read about this much of weights, pre-packed copies not counted.
_GROUP_BYTES = 1 << 30
_WARM_UP = 3
# Words that are tried for the last tokens of a text.
_MISSES = 1000


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: turns of each target.
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
        kind: ``latency`` of one text, ``throughput`` in batches of 32 texts, ``memory`` of a new process.
        case: tokens of each text, and threads.
        engine: the engine.
        effort: how long to measure.
        progress: called after each turn.

    Returns:
        One measurement for each target; ``busy_cores`` says whether others used the processors meanwhile.

    Raises:
        InputError: no text of that many tokens can be made, or it exceeds the model's maximum length.
        EngineError: the engine is missing or failed.
    """
    effort = effort or Effort()
    texts = texts_of(bundle, case.tokens, effort.calls if kind == "latency" else BATCH)
    threads = case.threads or available_threads()
    versions = load_engine(engine).versions

    def result(entry: TargetEntry, runs: int, values: dict[str, float], busy: float = 0.0) -> Measurement:
        return Measurement(entry.name, engine, versions, kind, case.tokens, threads, runs, values, busy)

    if kind == "memory":
        found = []
        for done, entry in enumerate(entries, start=1):
            use = measure_memory(bundle, entry.target, engine, threads, texts[0])
            values = {name: float(value) for name, value in msgspec.structs.asdict(use).items() if value is not None}
            found.append(result(entry, 1, values))
            progress("measure memory", done, len(entries))
        return found

    def turn(encoder: Encoder) -> list[float]:
        # One text at a time, or a batch.
        given: Sequence[str | list[str]] = texts if kind == "latency" else [texts]
        return [seconds for one in given for seconds in repeat(functools.partial(encoder.encode, one), least=1)]

    start = read_load()
    timings = _interleave(bundle, entries, engine, threads, turn, effort.rounds, f"measure {kind}", progress)
    busy = busy_cores(start, read_load(), threads)
    return [
        result(
            entry,
            timing.calls,
            timing.percentiles if kind == "latency" else {"texts_per_second": timing.rate(BATCH)},
            busy,
        )
        for entry, timing in timings
    ]


def texts_of(bundle: Bundle, tokens: int, count: int) -> list[str]:
    """Different texts of exactly ``tokens`` tokens, special tokens included, of words of the sample corpus.

    Raises:
        InputError: the model accepts no text of that length.
    """
    tokenizer = load_tokenizer(bundle)

    def length(words: Sequence[str]) -> int:
        return len(tokenizer.tokenizer.encode(" ".join(words)).ids)

    # A tokenizer without special tokens gives the empty text no token.
    least, longest = max(1, length([])), bundle.manifest.max_seq_length
    if not least <= tokens <= longest:
        raise InputError(f"Cannot time a text of {tokens} tokens: {bundle.path} accepts {least} to {longest} tokens.")
    words = itertools.cycle([word for item in sample_corpus() for word in item.text.split()])
    return [_text(words, length, tokens) for _ in range(count)]


def _text(words: Iterator[str], length: Callable[[Sequence[str]], int], tokens: int) -> str:
    """The next words, without those that have more tokens than are left."""
    chosen: list[str] = []
    left, misses = tokens - length([]), 0
    step = left // 4
    while left > 0 and misses < _MISSES:
        more = list(itertools.islice(words, max(1, step)))
        found = length([*chosen, *more])
        if found <= tokens:
            chosen += more
            left, misses = tokens - found, 0
            step = left // 4
        else:
            misses += len(more) == 1
            step //= 2
    return " ".join(chosen)


def _interleave(
    bundle: Bundle,
    entries: Sequence[TargetEntry],
    engine: str,
    threads: int,
    turn: Callable[[Encoder], list[float]],
    rounds: int,
    stage: str,
    progress: Progress,
) -> list[tuple[TargetEntry, Timing]]:
    found: list[tuple[TargetEntry, Timing]] = []
    done, total = 0, rounds * len(entries)
    progress(stage, 0, total)
    for group in _groups(entries):
        encoders = [
            Encoder.open(bundle, entry.target, engine=engine, threads=threads, log_truncated=False) for entry in group
        ]
        turns = [functools.partial(turn, encoder) for encoder in encoders]
        share = rounds * len(group)

        def advance(used: float, before: int = done, share: int = share) -> None:
            progress(stage, before + round(used * share), total)

        found += zip(group, interleave(turns, StopRule(rounds, rounds), advance, _WARM_UP), strict=True)
        done += share
    return found


def _groups(entries: Sequence[TargetEntry]) -> Iterator[list[TargetEntry]]:
    group: list[TargetEntry] = []
    size = 0
    for entry in entries:
        if group and size + entry.weight_bytes > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.weight_bytes
    if group:
        yield group
