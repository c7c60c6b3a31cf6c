"""Running a bench: groups of contenders that take turns, written after each group, so that a run can be resumed."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ese_deploy.bench.baseline_runs import BaselinePlan, BaselineTable, start_baselines
from ese_deploy.bench.baselines import BaselineError
from ese_deploy.bench.contenders import Contender, target_contender
from ese_deploy.bench.costs import measure_costs
from ese_deploy.bench.host import LoadClock, describe_host
from ese_deploy.bench.operations import OperationCount
from ese_deploy.bench.peak import MatrixProduct, find_products
from ese_deploy.bench.plan import STOP_RULES, GroupPlan, Request, Run, plan_groups
from ese_deploy.bench.results import SCHEMA_VERSION, Baseline, Effort, Group, Peak, Results, write_results
from ese_deploy.bench.texts import BenchTexts, describe_texts
from ese_deploy.bench.timing import Timing, interleave
from ese_deploy.bundle.reader import Bundle, choose_entry, read_graph
from ese_deploy.engines import load_engine
from ese_deploy.measurements.store import bundle_key
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.machine import library_versions
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target

__all__ = ["can_resume", "new_results", "run_bench"]

_COST_ROUNDS: dict[Effort, int] = {"quick": 1, "full": 3}


@dataclass
class _State:
    """What stays open between groups."""

    bundle: Bundle
    request: Request
    texts: BenchTexts
    baselines: BaselineTable = field(default_factory=BaselineTable)
    encoders: dict[tuple[str, str, int], Encoder] = field(default_factory=dict)
    counts: dict[Target, OperationCount] = field(default_factory=dict)
    products: dict[int, tuple[list[MatrixProduct], list[Peak]]] = field(default_factory=dict)


def new_results(
    bundle: Bundle, request: Request, texts: BenchTexts, absent: dict[str, str], restricted: dict[str, str]
) -> Results:
    """Results without any figure.

    Raises:
        EngineError: an engine is missing.
    """
    manifest = bundle.manifest
    tokenizer = load_tokenizer(bundle)
    return Results(
        schema_version=SCHEMA_VERSION,
        name=bundle.path.resolve().name,
        model=manifest.source.model,
        weights_sha256=manifest.source.weights_sha256,
        bundle=bundle_key(bundle),
        depth=manifest.depth,
        width=manifest.width,
        host=describe_host(),
        versions=library_versions(),
        engines={name: load_engine(name).versions for name in request.engines},
        absent=absent,
        started=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        effort=request.effort,
        restricted=restricted,
        stop=str(STOP_RULES[request.effort]),
        texts_name=texts.name,
        texts={length: describe_texts(texts.lengths[length], tokenizer) for length in request.lengths},
        quality={str(entry.target): entry.quality for entry in request.entries},
        groups=[],
        costs=[],
        baselines=[],
        complete=False,
    )


def can_resume(interrupted: Results, fresh: Results) -> bool:
    """Whether a run can continue an interrupted one: same bundle, engines, machine, effort, options and texts."""

    def asked(results: Results) -> tuple[object, ...]:
        machine, texts = results.host.machine.key, results.texts
        return (results.bundle, results.engines, machine, results.effort, results.restricted, texts)

    return asked(interrupted) == asked(fresh)


def run_bench(
    bundle: Bundle,
    request: Request,
    texts: BenchTexts,
    results: Results,
    out: Path | None = None,
    baselines: BaselinePlan | None = None,
    progress: Progress = silent,
) -> Results:
    """Measure what ``results`` lacks, and write the file after each group.

    ``results`` are those of :func:`new_results`, or of an interrupted run. Without ``out`` no file is written.

    Raises:
        InputError: the file cannot be written.
        EngineError: an engine failed.
    """

    def keep() -> None:
        if out is not None:
            write_results(out, results)

    every = plan_groups(request)
    done = {group.key for group in results.groups}
    plans = [plan for plan in every if plan.key not in done]
    # Each group is one step of the progress, and so are the costs.
    step, steps = 0, len(plans) + (not results.costs)

    def advance(share: float) -> None:
        progress("bench", round(100 * (step + share)), 100 * steps)

    state = _State(bundle, request, texts)
    keep()
    with ExitStack() as stack:
        if baselines is not None and any(plan.with_baselines for plan in plans):
            state.baselines = start_baselines(bundle, request, texts, baselines, stack, progress)
        for step, plan in enumerate(plans):  # noqa: B007, advance reads it
            group = _time_group(state, plan, advance, progress)
            listed = _merge(results.baselines, state.baselines.listed)
            results = msgspec.structs.replace(results, groups=[*results.groups, group], baselines=listed)
            keep()
    if not results.costs:
        step, text = len(plans), texts.lengths[request.lengths[0]][0]
        rounds = _COST_ROUNDS[request.effort]
        costs = measure_costs(bundle, every[0].runs, request.threads[0], text, rounds, advance)
        results = msgspec.structs.replace(results, costs=costs)
    results = msgspec.structs.replace(results, complete=True)
    keep()
    return results


def _merge(earlier: Sequence[Baseline], fresh: Sequence[Baseline]) -> list[Baseline]:
    """The baselines of this run, with the trials that the interrupted run made."""
    trials = {(one.name, one.dtype): one.trials for one in earlier}
    merged = [
        msgspec.structs.replace(one, trials={**trials.get((one.name, one.dtype), {}), **one.trials}) for one in fresh
    ]
    return merged or list(earlier)


def _time_group(state: _State, plan: GroupPlan, advance: Callable[[float], None], progress: Progress) -> Group:
    texts = state.texts.lengths[plan.length]
    contenders = [_target(state, plan, run, texts) for run in plan.runs]
    if plan.with_baselines and state.baselines.running:
        full = Target(state.bundle.manifest.depth, state.bundle.manifest.width)
        reference = _encoder(state, Run.default(choose_entry(state.bundle, full), plan.runs[0].engine), plan.threads)
        contenders += state.baselines.contenders(plan, texts, reference, _count(state, full), progress)
    if plan.threads not in state.products:
        state.products[plan.threads] = find_products(plan.threads)
    products, missing = state.products[plan.threads]
    timed: list[Timing] = []
    while not timed:
        clock, start = LoadClock(), datetime.now(UTC)
        turns = [one.turn for one in contenders] + [product.turn for product in products]
        try:
            timed = interleave(turns, STOP_RULES[state.request.effort], advance)
        except BaselineError as error:  # the group starts again without that baseline
            contenders = state.baselines.without_failed(contenders, error)
    rows = [one.timed(timing) for one, timing in zip(contenders, timed, strict=False)]
    peaks = [
        msgspec.structs.replace(product.peak, rates=[product.operations / seconds for seconds in timing.seconds])
        for product, timing in zip(products, timed[len(contenders) :], strict=True)
    ]
    return Group(
        kind=plan.kind,
        study=plan.study,
        length=plan.length,
        threads=plan.threads,
        rows=rows,
        peaks=[*peaks, *missing],
        rounds=len(timed[0].seconds),
        seconds=round((datetime.now(UTC) - start).total_seconds(), 1),
        other_load=clock.read(),
    )


def _target(state: _State, plan: GroupPlan, run: Run, texts: Sequence[str]) -> Contender:
    encoder, count = _encoder(state, run, plan.threads), _count(state, run.entry.target)
    return target_contender(encoder, run, plan, texts, load_tokenizer(state.bundle), count)


def _encoder(state: _State, run: Run, threads: int) -> Encoder:
    key = (run.entry.name, run.engine, threads)
    if key not in state.encoders:
        # Sessions with other thread counts are not needed again soon and would only occupy memory.
        state.encoders = {key: encoder for key, encoder in state.encoders.items() if key[2] == threads}
        opened = Encoder.open(state.bundle, run.entry.target, engine=run.engine, threads=threads, log_truncated=False)
        state.encoders[key] = opened
    return state.encoders[key]


def _count(state: _State, target: Target) -> OperationCount:
    if target not in state.counts:
        graph = read_graph(state.bundle, choose_entry(state.bundle, target))
        state.counts[target] = OperationCount.of(graph)
    return state.counts[target]
