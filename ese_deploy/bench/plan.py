"""What a bench times: groups of runs that take turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ese_deploy.bench.rounds import Stop
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines import batch_for
from ese_deploy.errors import InputError
from ese_deploy.target import Target

__all__ = ["BUDGETS", "STOPS", "GroupPlan", "Request", "Run", "describe_stop", "plan_groups", "select_entries"]

BUDGETS = (128, 256, 512, 1024, 2048, 4096)
STOPS = {"quick": Stop(least=3, most=8, seconds=5), "full": Stop(least=5, most=15, seconds=45)}

Effort = Literal["quick", "full"]


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        effort: ``quick`` (a minute) or ``full``.
        engines: engines that are to run.
        entries: targets that are to run.
        lengths: texts of which length, the shortest first, mixed ones last.
        threads: thread counts, falling; the first is that of peers and of whatever has one alone.
        budgets: token budgets, of which one row each is timed, and one of the engine's default.
    """

    effort: Effort
    engines: tuple[str, ...]
    entries: tuple[TargetEntry, ...]
    lengths: tuple[str, ...]
    threads: tuple[int, ...]
    budgets: tuple[int, ...] = BUDGETS


@dataclass(frozen=True)
class Run:
    """A target on an engine with a token budget."""

    entry: TargetEntry
    engine: str
    budget: int


@dataclass(frozen=True)
class GroupPlan:
    """A group before it is timed; the fields are those of :class:`ese_deploy.bench.results.Group`."""

    kind: Literal["throughput", "latency"]
    study: Literal["depth", "width", "budget"]
    length: str
    threads: int
    runs: tuple[Run, ...]
    peers: bool

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What names the group in its results."""
        return (self.kind, self.study, self.length, self.threads)


def select_entries(bundle: Bundle, targets: Sequence[Target], engines: Sequence[str]) -> tuple[TargetEntry, ...]:
    """The targets named, or all, that one of the engines can run.

    Raises:
        InputError: the bundle does not hold a target, or no engine runs any.
    """
    entries = bundle.manifest.targets
    held = {entry.target for entry in entries}
    for target in targets:
        if target not in held:
            raise InputError(f"{bundle.path} holds no target {target}; it holds {', '.join(map(str, sorted(held)))}")
    chosen = [entry for entry in entries if not targets or entry.target in targets]
    able = tuple(entry for entry in chosen if set(entry.engines).intersection(engines))
    if not able:
        raise InputError(f"{bundle.path} holds no such target for the engines {', '.join(engines)}")
    return able


def plan_groups(request: Request) -> list[GroupPlan]:
    """List the groups of a bench.

    Quick: every depth at its widest on the texts of each length, with peers, on the last length at each thread count,
    and one text of the first length at a time at each thread count. Full: every width and every token budget too.
    """
    full = request.effort == "full"
    most, *fewer = request.threads
    lengths = request.lengths
    depths = _runs(_widest(request.entries), request.engines)
    groups = [GroupPlan("throughput", "depth", length, most, depths, True) for length in lengths]
    groups += [GroupPlan("throughput", "depth", lengths[-1], count, depths, False) for count in fewer]
    every = _runs(request.entries, request.engines)
    middle = lengths[min(1, len(lengths) - 1)]
    if full and len(every) > len(depths):
        groups.append(GroupPlan("throughput", "width", middle, most, every, False))
    if full:
        ends = [run for run in depths if run.entry.depth in (depths[0].entry.depth, depths[-1].entry.depth)]
        runs = tuple(
            Run(run.entry, run.engine, budget) for run in ends for budget in sorted({*request.budgets, run.budget})
        )
        groups.append(GroupPlan("throughput", "budget", lengths[-1], most, runs, False))
    groups += [GroupPlan("latency", "depth", lengths[0], count, depths, count == most) for count in request.threads]
    return groups


def describe_stop(stop: Stop) -> str:
    """The criterion by which rounds end, in words."""
    return (
        f"at least {stop.least} rounds; then until every median is known within {stop.precision:.0%} (1.57 x "
        f"interquartile range / sqrt(rounds)), at most {stop.most} rounds, and none begun after {stop.seconds:.0f} s"
    )


def _widest(entries: Sequence[TargetEntry]) -> list[TargetEntry]:
    """The widest target of each depth and dtype."""
    found: dict[tuple[str, int], TargetEntry] = {}
    for entry in sorted(entries, key=lambda entry: entry.dim):
        found[entry.dtype, entry.depth] = entry
    return [found[key] for key in sorted(found)]


def _runs(entries: Sequence[TargetEntry], engines: Sequence[str]) -> tuple[Run, ...]:
    # By depth within dtype and engine, so that the first and the last are the ends of one line.
    return tuple(
        Run(entry, engine, batch_for(engine).tokens)
        for engine in engines
        for entry in entries
        if engine in entry.engines
    )
