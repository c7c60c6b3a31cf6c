"""What a target costs besides time per text: size, load, start and memory."""

import statistics
from collections.abc import Callable, Sequence

from ese_deploy.bench.memory import cold_start, measure_memory
from ese_deploy.bench.plan import Run
from ese_deploy.bench.results import Cost
from ese_deploy.bundle.reader import Bundle
from ese_deploy.target import Target

__all__ = ["measure_costs"]


def measure_costs(
    bundle: Bundle, runs: Sequence[Run], threads: int, text: str, rounds: int, advance: Callable[[], None]
) -> list[Cost]:
    """Start processes for each target, in interleaved rounds.

    Args:
        bundle: the bundle.
        runs: targets and engines; their budgets do not matter.
        threads: threads of each.
        text: what is embedded first.
        rounds: processes of each kind for each target.
        advance: called after each process.

    Raises:
        EngineError: a process failed.
    """
    memory: list[list[dict[str, float]]] = [[] for _ in runs]
    cold: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for position, run in enumerate(runs):
            memory[position].append(measure_memory(bundle, run.entry.target, run.engine, threads, text))
            advance()
            cold[position].append(cold_start(bundle, run.entry.target, run.engine, threads, text))
            advance()
    return [_cost(bundle, run, found, starts) for run, found, starts in zip(runs, memory, cold, strict=True)]


def _cost(bundle: Bundle, run: Run, found: Sequence[dict[str, float]], starts: Sequence[float]) -> Cost:
    def median(name: str) -> int | None:
        return round(statistics.median(one[name] for one in found)) if name in found[0] else None

    target: Target = run.entry.target
    return Cost(
        target=str(target),
        engine=run.engine,
        bytes=run.entry.bytes + run.entry.weight_bytes + bundle.manifest.tokenizer.bytes,
        load_seconds=statistics.median(one["load_seconds"] for one in found),
        cold_seconds=statistics.median(starts),
        growth_bytes=median("bytes"),
        peak_bytes=median("peak_bytes"),
        runs=len(starts),
    )
