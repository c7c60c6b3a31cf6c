"""A bench: groups of targets and peers that take turns, written down after each group, so that it can go on later."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ese_deploy.bench.baseline_runs import PeerPlan, PeerTable, start_peers
from ese_deploy.bench.baselines import PeerError
from ese_deploy.bench.contenders import Subject, finish, own_subject
from ese_deploy.bench.costs import measure_costs
from ese_deploy.bench.host import OthersClock, describe_host
from ese_deploy.bench.operations import OperationCount
from ese_deploy.bench.peak import Ceiling, find_ceilings
from ese_deploy.bench.plan import STOPS, GroupPlan, Request, Run, describe_stop, plan_groups
from ese_deploy.bench.results import SCHEMA_VERSION, Group, Limit, Peer, Results, write_results
from ese_deploy.bench.rounds import interleave
from ese_deploy.bench.texts import BenchTexts
from ese_deploy.bundle.reader import Bundle, choose_entry, read_graph
from ese_deploy.choose.measurements import bundle_key
from ese_deploy.engines import batch_for, load_engine
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.system.machine import library_versions
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target

__all__ = ["new_results", "run_bench", "same_question"]

_COST_ROUNDS = {"quick": 1, "full": 3}


@dataclass
class _State:
    """What stays open between groups."""

    bundle: Bundle
    request: Request
    texts: BenchTexts
    peers: PeerTable = field(default_factory=PeerTable)
    encoders: dict[tuple[str, str, int], Encoder] = field(default_factory=dict)
    counts: dict[str, OperationCount] = field(default_factory=dict)
    ceilings: dict[int, tuple[list[Ceiling], list[Limit]]] = field(default_factory=dict)


def new_results(
    bundle: Bundle, request: Request, texts: BenchTexts, absent: dict[str, str], restricted: str
) -> Results:
    """Results without any figure.

    Raises:
        EngineError: an engine is missing.
    """
    manifest = bundle.manifest
    tokenizer = load_tokenizer(bundle)
    described = texts.describe(tokenizer)
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
        stop=describe_stop(STOPS[request.effort]),
        texts_name=texts.name,
        texts={length: described[length] for length in request.lengths},
        quality={str(entry.target): entry.quality for entry in request.entries},
        groups=[],
        costs=[],
        peers=[],
        complete=False,
    )


def same_question(first: Results, second: Results) -> bool:
    """Whether a run may go on with what another one found: same bundle, texts, machine and effort."""

    def asked(results: Results) -> tuple[object, ...]:
        machine, texts = results.host.machine.key, results.texts
        return (results.bundle, results.engines, machine, results.effort, results.restricted, texts)

    return asked(first) == asked(second)


def run_bench(
    bundle: Bundle,
    request: Request,
    texts: BenchTexts,
    results: Results,
    out: Path,
    peers: PeerPlan | None = None,
    progress: Progress = silent,
) -> Results:
    """Time what ``results`` lacks, and write the file after each group.

    Args:
        bundle: the bundle.
        request: what is asked for.
        texts: the texts.
        results: those of :func:`new_results`, or of a run that was cut off.
        out: the file.
        peers: who else is to run.
        progress: called often.

    Raises:
        InputError: the file cannot be written.
        EngineError: an engine failed.
    """
    done = {group.key for group in results.groups}
    plans = [plan for plan in plan_groups(request) if plan.key not in done]
    costly = () if results.costs else _costly(plan_groups(request))
    steps = _Steps(progress, [_weight(plan, texts) for plan in plans], len(costly) * _COST_ROUNDS[request.effort])
    state = _State(bundle, request, texts)
    write_results(out, results)
    with ExitStack() as stack:
        if peers is not None and any(plan.peers for plan in plans):
            state.peers = start_peers(bundle, request, texts, peers, stack, progress)
        for plan in plans:
            group = _time_group(state, plan, steps.advance, progress)
            results = msgspec.structs.replace(
                results, groups=[*results.groups, group], peers=_merge(results.peers, state.peers.listed)
            )
            write_results(out, results)
            steps.next()
    if costly:
        text = texts.lengths[request.lengths[0]][0]
        rounds = _COST_ROUNDS[request.effort]
        costs = measure_costs(bundle, costly, request.threads[0], text, rounds, steps.tick)
        results = msgspec.structs.replace(results, costs=costs)
    results = msgspec.structs.replace(results, complete=True)
    write_results(out, results)
    return results


def _merge(held: Sequence[Peer], fresh: Sequence[Peer]) -> list[Peer]:
    """The peers of this run, with the trials that the run before it made of them."""
    trials = {(peer.name, peer.dtype): peer.sweep for peer in held}
    merged = [
        msgspec.structs.replace(peer, sweep={**trials.get((peer.name, peer.dtype), {}), **peer.sweep}) for peer in fresh
    ]
    return merged or list(held)


def _time_group(state: _State, plan: GroupPlan, advance: Callable[[float], None], progress: Progress) -> Group:
    texts = state.texts.lengths[plan.length]
    subjects = [_own(state, plan, run, texts) for run in plan.runs]
    if plan.peers and state.peers.running:
        full = Target(state.bundle.manifest.depth, state.bundle.manifest.width)
        engine = plan.runs[0].engine
        run = Run(choose_entry(state.bundle, full), engine, batch_for(engine).tokens)
        reference = _encoder(state, run, plan.threads)
        subjects += state.peers.subjects(plan, texts, reference, _count(state, full), progress)
    if plan.threads not in state.ceilings:
        state.ceilings[plan.threads] = find_ceilings(plan.threads)
    ceilings, missing = state.ceilings[plan.threads]
    timed = None
    while timed is None:
        clock, start = OthersClock(), datetime.now(UTC)
        turns = [subject.turn for subject in subjects] + [ceiling.turn for ceiling in ceilings]
        try:
            timed = interleave(turns, STOPS[state.request.effort], advance)
        except PeerError as error:  # the group begins anew, without that peer
            subjects = state.peers.without_failed(subjects, error)
    rows = [finish(subject.row, times) for subject, times in zip(subjects, timed, strict=False)]
    limits = [
        msgspec.structs.replace(
            ceiling.limit, rates=[ceiling.operations / statistics.median(times) for times in rounds]
        )
        for ceiling, rounds in zip(ceilings, timed[len(subjects) :], strict=True)
    ]
    return Group(
        kind=plan.kind,
        study=plan.study,
        length=plan.length,
        threads=plan.threads,
        rows=rows,
        limits=[*limits, *missing],
        rounds=len(timed[0]),
        seconds=round((datetime.now(UTC) - start).total_seconds(), 1),
        others=clock.read(),
    )


def _own(state: _State, plan: GroupPlan, run: Run, texts: Sequence[str]) -> Subject:
    encoder = _encoder(state, run, plan.threads)
    return own_subject(encoder, run, texts, plan.kind, load_tokenizer(state.bundle), _count(state, run.entry.target))


def _encoder(state: _State, run: Run, threads: int) -> Encoder:
    key = (run.entry.name, run.engine, threads)
    if key not in state.encoders:
        # Sessions with other thread counts are not needed again soon; they would only hold memory.
        state.encoders = {held: encoder for held, encoder in state.encoders.items() if held[2] == threads}
        opened = Encoder.open(state.bundle, run.entry.target, engine=run.engine, threads=threads)
        state.encoders[key] = opened
    return state.encoders[key]


def _count(state: _State, target: Target) -> OperationCount:
    if str(target) not in state.counts:
        graph = read_graph(state.bundle, choose_entry(state.bundle, target))
        state.counts[str(target)] = OperationCount.of(graph)
    return state.counts[str(target)]


def _costly(plans: Sequence[GroupPlan]) -> tuple[Run, ...]:
    """The targets whose memory and start are measured: those of the first group."""
    return plans[0].runs if plans else ()


def _weight(plan: GroupPlan, texts: BenchTexts) -> float:
    """About how long a group takes, in no unit: words times depth."""
    words = sum(len(text.split()) for text in texts.lengths[plan.length]) if plan.kind == "throughput" else 100
    return words * (sum(run.entry.depth for run in plan.runs) + 100 * plan.peers) + 20_000


class _Steps:
    """Turns groups of unlike length into one bar."""

    def __init__(self, progress: Progress, weights: Sequence[float], costs: int) -> None:
        self._progress = progress
        self._weights = [*weights, *([costs * 10_000.0] if costs else [])]
        self._done = 0
        self._ticks, self._costs = 0, costs
        self.advance(0.0)

    def advance(self, share: float) -> None:
        """How much of the present group is done."""
        before = sum(self._weights[: self._done])
        weight = self._weights[self._done] if self._done < len(self._weights) else 0.0
        self._progress("bench", round(before + share * weight), round(sum(self._weights)))

    def next(self) -> None:
        """The present group is done."""
        self._done += 1
        self.advance(0.0)

    def tick(self) -> None:
        """One more process was started."""
        self._ticks += 1
        self.advance(self._ticks / (2 * self._costs))
