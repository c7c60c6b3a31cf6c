"""Size, start-up and memory of targets, each measured in processes of its own."""

import statistics
from collections.abc import Callable, Sequence

from ese_deploy.bench.memory import MemoryUse, cold_start, measure_memory
from ese_deploy.bench.plan import Run
from ese_deploy.bench.results import Cost
from ese_deploy.bundle.reader import Bundle

__all__ = ["measure_costs"]


def measure_costs(
    bundle: Bundle, runs: Sequence[Run], threads: int, text: str, rounds: int, advance: Callable[[float], None]
) -> list[Cost]:
    """Start processes for each target, in interleaved rounds.

    ``rounds`` is the number of processes of each kind for each target; ``advance`` is called after each target with how
    much is done, from 0 to 1.

    Raises:
        EngineError: a process failed.
    """
    memory: list[list[MemoryUse]] = [[] for _ in runs]
    cold: list[list[float]] = [[] for _ in runs]
    for number in range(rounds):
        for position, run in enumerate(runs):
            memory[position].append(measure_memory(bundle, run.entry.target, run.engine, threads, text))
            cold[position].append(cold_start(bundle, run.entry.target, run.engine, threads, text))
            advance((number + (position + 1) / len(runs)) / rounds)
    return [
        Cost(
            target=str(run.entry.target),
            engine=run.engine,
            bytes=run.entry.bytes + run.entry.weight_bytes + bundle.manifest.tokenizer.bytes,
            load_seconds=statistics.median(one.load_seconds for one in found),
            cold_seconds=statistics.median(starts),
            growth_bytes=_median([one.bytes for one in found]),
            peak_bytes=_median([one.peak_bytes for one in found]),
            runs=rounds,
        )
        for run, found, starts in zip(runs, memory, cold, strict=True)
    ]


def _median(figures: Sequence[int | None]) -> int | None:
    known = [figure for figure in figures if figure is not None]
    return round(statistics.median(known)) if known else None
