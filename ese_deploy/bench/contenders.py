"""Those who take turns: our own targets and the peers, each as something that can be timed."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from ese_deploy.bench.baselines import PeerError, RunningPeer
from ese_deploy.bench.operations import OperationCount
from ese_deploy.bench.plan import GroupPlan, Run
from ese_deploy.bench.results import OWN, Row
from ese_deploy.bench.rounds import Turn
from ese_deploy.engines import batch_for, load_engine
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.tokenize import TextTokenizer

__all__ = [
    "AGAIN",
    "SINGLES",
    "TOLERANCES",
    "Subject",
    "check_vectors",
    "finish",
    "own_subject",
    "peer_subject",
    "setting_words",
    "sweep",
    "thin",
]

# Lowest cosine with the reference from which a peer's speed counts; fewer bits may be further off.
TOLERANCES = {"fp32": 0.9999}
_GATE_FEWER_BITS = 0.95

# A turn lasts at least this long, so that a clock tick or an interrupt is small beside it.
_TURN = 0.15
# Texts of a latency turn, and of the trial of a batch size.
SINGLES = 24
_TRIAL = 64
AGAIN = 3


@dataclass(frozen=True)
class Subject:
    """Something that takes turns.

    Attributes:
        row: its row, still without times.
        turn: times it once: throughput: seconds of each pass; latency: seconds of each text.
    """

    row: Row
    turn: Turn


def own_subject(
    encoder: Encoder, run: Run, texts: Sequence[str], kind: str, tokenizer: TextTokenizer, count: OperationCount
) -> Subject:
    """A target of the bundle."""
    single, batch = kind == "latency", batch_for(run.engine)
    texts = thin(texts, SINGLES) if single else texts
    lengths = tokenizer(texts).lengths
    padding = None
    if not single:
        computed = sum(len(rows) * int(lengths[rows[0]]) for rows in plan_batches(lengths, batch.size, run.budget))
        padding = 1 - int(lengths.sum()) / computed
    default = " (default)" if run.budget == batch.tokens else ""
    setting = "one text" if single else f"{run.budget} tokens{default}"
    operations = count(lengths.tolist()) / (len(texts) if single else 1)
    row = Row(
        who=OWN,
        target=f"{run.entry.depth}x{run.entry.dim}",
        engine=run.engine,
        device=load_engine(run.engine).device,
        dtype=run.entry.dtype,
        setting=setting,
        seconds=[],
        percentiles={},
        calls=0,
        padding=padding,
        operations=operations,
    )

    def passes() -> list[float]:
        return _repeat(lambda: encoder.encode(texts, batch_tokens=run.budget))

    def singles() -> list[float]:
        return [_time(lambda text=text: encoder.encode(text)) for text in texts]  # type: ignore[misc]

    return Subject(row, singles if single else passes)


def peer_subject(
    peer: RunningPeer, plan: GroupPlan, setting: dict[str, Any], target: str, operations: float, cosine: float
) -> Subject:
    """A peer, with the setting that was fastest in its trial.

    Args:
        peer: the peer, which holds the texts under the length's name, and the few for latency under ``LENGTH-one``.
        plan: the group.
        setting: how it batches.
        target: the full model, such as ``6x384``.
        operations: of the texts, or of one of them on average.
        cosine: lowest cosine with the reference.
    """
    entry, length, single = peer.entry, plan.length, plan.kind == "latency"
    counted = cosine >= TOLERANCES.get(entry.dtype, _GATE_FEWER_BITS)
    words = "one text" if single else setting_words(setting)
    row = Row(entry.name, target, entry.engine, "cpu", entry.dtype, words, [], {}, 0, None, operations, cosine, counted)
    if single:
        return Subject(row, lambda: peer.singles(f"{length}-one", setting))
    return Subject(row, lambda: peer.passes(length, setting, _TURN))


def sweep(peer: RunningPeer, length: str, texts: Sequence[str], advance: Callable[[], None]) -> dict[str, float]:
    """Try every setting of a peer on some of the texts.

    Returns:
        For each setting, in words, the seconds of its trial; the three best are tried twice, and their best counts.
    """
    peer.send_texts(length, texts)
    peer.send_texts(f"{length}-one", thin(texts, SINGLES))
    peer.send_texts(f"{length}-trial", thin(texts, _TRIAL))
    best: dict[str, float] = {}

    def attempt(setting: dict[str, Any]) -> None:
        words = setting_words(setting)
        best[words] = min([best.get(words, np.inf), *peer.passes(f"{length}-trial", setting, 0.0)])
        advance()

    for setting in peer.settings:
        attempt(setting)
    for setting in sorted(peer.settings, key=lambda setting: best[setting_words(setting)])[:AGAIN]:
        attempt(setting)
    return best


def check_vectors(peer: RunningPeer, length: str, setting: dict[str, Any], reference: Any) -> float:
    """Lowest cosine of a peer's vectors with the reference, float32 [n, dim] of norm 1.

    Raises:
        PeerError: the vectors have another shape.
    """
    vectors = peer.vectors(length, setting)
    if vectors.shape != reference.shape:
        raise PeerError(f"{peer.entry} gave vectors of shape {vectors.shape}, wanted is {reference.shape}")
    norms = np.linalg.norm(vectors, axis=1)
    return float(np.min(np.sum(vectors * reference, axis=1) / np.maximum(norms, 1e-12)))


def setting_words(setting: dict[str, Any]) -> str:
    """A setting as people read it."""
    words = [f"{setting['batch_size']} texts"] if "batch_size" in setting else []
    return ", ".join([*words, *(str(value).lower() for key, value in setting.items() if key != "batch_size")])


def finish(row: Row, timed: list[list[float]]) -> Row:
    """A row with its times."""
    calls = [seconds for times in timed for seconds in times]
    percentiles = {}
    if row.setting == "one text":
        p50, p95, p99 = np.percentile(calls, [50, 95, 99]).tolist()
        percentiles = {"p50": p50, "p95": p95, "p99": p99}
    medians = [statistics.median(times) for times in timed]
    return msgspec.structs.replace(row, seconds=medians, percentiles=percentiles, calls=len(calls))


def thin(texts: Sequence[str], count: int) -> list[str]:
    """At most ``count`` texts, evenly spread."""
    kept = min(count, len(texts))
    return [texts[place * len(texts) // kept] for place in range(kept)]


def _repeat(call: Callable[[], object]) -> list[float]:
    times = [_time(call)]
    while sum(times) < _TURN:
        times.append(_time(call))
    return times


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
