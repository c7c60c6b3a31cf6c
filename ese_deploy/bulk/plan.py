"""What a job of a given size takes: core hours, days and storage, from a measurement on this machine."""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ese_deploy.bulk.embedder import Embedder, describe_model
from ese_deploy.bulk.settings import ModelSettings
from ese_deploy.errors import InputError
from ese_deploy.system.machine import Machine, describe_machine
from ese_deploy.system.threads import available_threads
from ese_deploy.texts.reader import TextFile, open_texts
from ese_deploy.texts.sample import sample_corpus

__all__ = ["JobPlan", "PlannedSize", "plan_job"]

_BITS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}
_MOST_TEXTS = 20_000


class PlannedSize(msgspec.Struct, frozen=True):
    """A job of a number of texts.

    Attributes:
        texts: how many.
        core_hours: of cores like those of this machine.
        hours: with the cores of the plan.
        storage_bytes: of the vectors alone, by precision.
        cost: at the price of the plan; None without a price.
    """

    texts: int
    core_hours: float
    hours: float
    storage_bytes: dict[str, int]
    cost: float | None


class JobPlan(msgspec.Struct, frozen=True):
    """What jobs take.

    Attributes:
        target: the target that was measured.
        dim: dimensions of a vector.
        machine: where it was measured.
        threads: threads of the measurement.
        texts_per_second: measured, with all threads.
        tokens_per_text: mean of the texts that were measured.
        cores: cores that the hours refer to.
        price_per_core_hour: None without one.
        sizes: the jobs.
        assumptions: what the figures rest on.
    """

    target: str
    dim: int
    machine: Machine
    threads: int
    texts_per_second: float
    tokens_per_text: float
    cores: int
    price_per_core_hour: float | None
    sizes: list[PlannedSize]
    assumptions: list[str]


def plan_job(
    bundle: str | Path,
    target: str | None = None,
    *,
    texts: Sequence[int] = (1_000_000, 100_000_000, 10_000_000_000),
    cores: int | None = None,
    sample: str | Path | None = None,
    text_field: str = "text",
    engine: str | None = None,
    threads: int | None = None,
    price_per_core_hour: float | None = None,
    seconds: float = 10.0,
) -> JobPlan:
    """Measure a target on this machine, and compute what jobs of some sizes take.

    Args:
        bundle: the folder of the bundle.
        target: such as ``3x128``.
        texts: the sizes of the jobs.
        cores: cores of the cluster. None: those that this process may use.
        sample: a file of texts like those of the job; its first 20,000 are measured. None: the sample corpus.
        text_field: the field of the text in ``sample``.
        engine: the inference engine.
        threads: threads of the measurement.
        price_per_core_hour: for the cost.
        seconds: how long to measure.

    Raises:
        InputError: a number is not positive, the sample is missing, or the bundle does not contain the target.
        BundleError: the bundle is missing or damaged.
        EngineError: the engine is missing or fails.
    """
    found = threads or available_threads()
    chosen = cores or found
    if min([chosen, found, *texts]) < 1 or seconds <= 0 or (price_per_core_hour or 0) < 0:
        raise InputError("`texts`, `cores`, `threads` and `seconds` must be above 0, and a price not below 0.")
    file = None if sample is None else open_texts(Path(sample), text_field)
    settings = ModelSettings(Path(bundle), () if target is None else (target,), engine=engine, threads=found)
    model = describe_model(settings)
    measured = _sample(file)
    rate, tokens = _measure(Embedder.open(settings), measured, seconds)
    per_core = rate / found
    what = "the sample corpus" if sample is None else f"the first {len(measured):,} texts of {sample}"
    return JobPlan(
        target=model.targets[0],
        dim=model.dims[0],
        machine=describe_machine(),
        threads=found,
        texts_per_second=round(rate, 1),
        tokens_per_text=round(tokens, 1),
        cores=chosen,
        price_per_core_hour=price_per_core_hour,
        sizes=[_size(count, per_core, chosen, model.dims[0], price_per_core_hour) for count in texts],
        assumptions=[
            f"Measured now on {found} threads of this machine, for {seconds:g} s, on {what}.",
            f"The texts of the job are as long: {tokens:.0f} tokens on average. The time grows with the length.",
            "Every core of the cluster is as fast as one of this machine, and rates add up.",
            "No duplicates, no time for start, for failures or for the network; storage is that of the vectors alone.",
        ],
    )


def _sample(file: TextFile | None) -> list[str]:
    if file is None:
        return [item.text for item in sample_corpus()]
    return [row.text for row in itertools.islice(file, _MOST_TEXTS)]


def _measure(embedder: Embedder, texts: list[str], seconds: float) -> tuple[float, float]:
    """Texts per second, and tokens per text, over at least the given time; the first window is not counted."""
    windows = list(embedder.windows(texts))
    if not windows:
        raise InputError("The sample contains no text.")
    embedder.embed(windows[0])
    count = tokens = 0
    began = time.perf_counter()
    for window in itertools.cycle(windows):
        embedded = embedder.embed(window)
        count += embedded.distinct
        tokens += embedded.tokens * embedded.distinct // len(window)
        if time.perf_counter() - began >= seconds:
            break
    return count / (time.perf_counter() - began), tokens / count


def _size(texts: int, per_core: float, cores: int, dim: int, price: float | None) -> PlannedSize:
    core_hours = texts / per_core / 3600
    return PlannedSize(
        texts=texts,
        core_hours=round(core_hours, 2),
        hours=round(core_hours / cores, 2),
        storage_bytes={name: texts * -(-dim * bits // 8) for name, bits in _BITS.items()},
        cost=None if price is None else round(core_hours * price, 2),
    )
