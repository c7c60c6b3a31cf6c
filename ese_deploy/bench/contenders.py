"""Contenders: targets of the bundle and baselines, as something that the timing loop can run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.bench.baselines import BaselineError, RunningBaseline, Setting
from ese_deploy.bench.operations import OperationCount
from ese_deploy.bench.plan import GroupPlan, Run
from ese_deploy.bench.results import Row, Trial
from ese_deploy.bench.timing import Timing, Turn, repeat
from ese_deploy.engines import batch_for, load_engine
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.tokenize import TextTokenizer

__all__ = [
    "SINGLES",
    "TRIED_TWICE",
    "Contender",
    "baseline_contender",
    "lowest_cosine",
    "target_contender",
    "thin",
    "try_settings",
]

# Lowest cosine with the bundle's vectors at which a baseline's speed counts.
_MIN_COSINE = {"fp32": 0.9999}
_MIN_COSINE_FEWER_BITS = 0.95

# A turn lasts at least this long, so that a clock tick or an interrupt is small beside it.
_TURN = 0.15
# Texts of a latency turn, and of the trial of a setting.
SINGLES = 24
_TRIAL = 64
TRIED_TWICE = 3

_UNTIMED = Timing([], 0)


@dataclass(frozen=True)
class Contender:
    """Something that takes turns.

    Attributes:
        row: its row, without times.
        turn: runs it once: throughput: seconds of each pass; latency: seconds of each text.
    """

    row: Row
    turn: Turn

    def timed(self, timing: Timing) -> Row:
        """Its row with times."""
        return msgspec.structs.replace(self.row, timing=timing)


def target_contender(
    encoder: Encoder, run: Run, plan: GroupPlan, texts: Sequence[str], tokenizer: TextTokenizer, count: OperationCount
) -> Contender:
    """A target of the bundle."""
    single = plan.kind == "latency"
    texts = thin(texts, SINGLES) if single else texts
    lengths = tokenizer(texts).lengths
    padding = None
    if not single:
        batches = plan_batches(lengths, batch_for(run.engine).size, run.batch_tokens)
        padding = 1 - int(lengths.sum()) / sum(len(rows) * int(lengths[rows[0]]) for rows in batches)
    row = Row(
        kind="target",
        name="ese-deploy",
        depth=run.entry.depth,
        dim=run.entry.dim,
        dtype=run.entry.dtype,
        engine=run.engine,
        device=load_engine(run.engine).device,
        batch=None if single else run.batch_tokens,
        is_default=run.is_default,
        timing=_UNTIMED,
        padding=padding,
        operations=count(lengths.tolist()) / (len(texts) if single else 1),
    )

    def passes() -> list[float]:
        return repeat(lambda: encoder.encode(texts, batch_tokens=run.batch_tokens), _TURN)

    def singles() -> list[float]:
        return [seconds for text in texts for seconds in repeat(lambda text=text: encoder.encode(text))]  # type: ignore[misc]

    return Contender(row, singles if single else passes)


def baseline_contender(
    baseline: RunningBaseline, plan: GroupPlan, setting: Setting, full: Encoder, operations: float, cosine: float
) -> Contender:
    """A baseline with the setting that was fastest in its trial.

    The baseline has the texts under the length's name, and those for latency under ``LENGTH-one``. ``operations`` are
    those of all texts, for latency of one on average; ``cosine`` is the lowest with the full model's vectors.
    """
    entry, length, single = baseline.entry, plan.length, plan.kind == "latency"
    row = Row(
        kind="baseline",
        name=entry.name,
        depth=full.target.depth,
        dim=full.target.dim,
        dtype=entry.dtype,
        engine=entry.engine,
        device="cpu",
        batch=None if single else setting.batch,
        mode="" if single else setting.mode,
        timing=_UNTIMED,
        operations=operations,
        cosine_min=cosine,
        counted=cosine >= _MIN_COSINE.get(entry.dtype, _MIN_COSINE_FEWER_BITS),
    )
    if single:
        return Contender(row, lambda: baseline.singles(f"{length}-one", setting))
    return Contender(row, lambda: baseline.passes(length, setting, _TURN))


def try_settings(
    baseline: RunningBaseline, length: str, texts: Sequence[str], advance: Callable[[], None]
) -> list[Trial]:
    """Try every setting of a baseline on some of the texts; the three fastest run twice, and their best time counts."""
    baseline.send_texts(length, texts)
    baseline.send_texts(f"{length}-one", thin(texts, SINGLES))
    baseline.send_texts(f"{length}-trial", thin(texts, _TRIAL))
    best: dict[Setting, float] = {}

    def attempt(setting: Setting) -> None:
        best[setting] = min([best.get(setting, np.inf), *baseline.passes(f"{length}-trial", setting, 0.0)])
        advance()

    for setting in baseline.settings:
        attempt(setting)
    for setting in sorted(baseline.settings, key=best.__getitem__)[:TRIED_TWICE]:
        attempt(setting)
    return [Trial(setting.batch, setting.mode, seconds) for setting, seconds in best.items()]


def lowest_cosine(baseline: RunningBaseline, length: str, setting: Setting, reference: NDArray[np.float32]) -> float:
    """Lowest cosine of a baseline's vectors with the reference, float32 [n, dim] of norm 1.

    Raises:
        BaselineError: the vectors have another shape.
    """
    vectors = baseline.vectors(length, setting)
    if vectors.shape != reference.shape:
        raise BaselineError(f"{baseline.entry} returned vectors of shape {vectors.shape}, expected {reference.shape}")
    norms = np.linalg.norm(vectors, axis=1)
    return float(np.min(np.sum(vectors * reference, axis=1) / np.maximum(norms, 1e-12)))


def thin(texts: Sequence[str], count: int) -> list[str]:
    """At most ``count`` texts, evenly spread."""
    kept = min(count, len(texts))
    return [texts[place * len(texts) // kept] for place in range(kept)]
