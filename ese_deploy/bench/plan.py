"""What a bench times: groups of targets that take turns."""

from collections.abc import Sequence
from dataclasses import dataclass

from ese_deploy.bench.results import Effort, Kind, Study
from ese_deploy.bench.timing import StopRule
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines import batch_for
from ese_deploy.errors import InputError
from ese_deploy.target import Target

__all__ = ["BATCH_TOKENS", "STOP_RULES", "GroupPlan", "Request", "Run", "plan_groups", "select_entries"]

BATCH_TOKENS = (128, 256, 512, 1024, 2048, 4096)
STOP_RULES: dict[Effort, StopRule] = {
    "quick": StopRule(least=3, most=8, seconds=5),
    "full": StopRule(least=5, most=15, seconds=45),
}


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        lengths: names of text sets, from short to long, mixed texts last.
        threads: thread counts, descending; baselines run with the first.
        batch_tokens: token budgets to compare, besides the default of each engine.
    """

    effort: Effort
    engines: tuple[str, ...]
    entries: tuple[TargetEntry, ...]
    lengths: tuple[str, ...]
    threads: tuple[int, ...]
    batch_tokens: tuple[int, ...] = BATCH_TOKENS


@dataclass(frozen=True)
class Run:
    """A target on an engine with a token budget."""

    entry: TargetEntry
    engine: str
    batch_tokens: int

    @classmethod
    def default(cls, entry: TargetEntry, engine: str) -> "Run":
        """A target with the engine's default budget."""
        return cls(entry, engine, batch_for(engine).tokens)

    @property
    def is_default(self) -> bool:
        """Whether the budget is the engine's default."""
        return self.batch_tokens == batch_for(self.engine).tokens


@dataclass(frozen=True)
class GroupPlan:
    """A group before it is timed; the fields are those of :class:`ese_deploy.bench.results.Group`."""

    kind: Kind
    study: Study
    length: str
    threads: int
    runs: tuple[Run, ...]
    with_baselines: bool

    @property
    def key(self) -> tuple[Kind, Study, str, int]:
        """Identifies the group in its results."""
        return (self.kind, self.study, self.length, self.threads)


def select_entries(bundle: Bundle, targets: Sequence[Target], engines: Sequence[str]) -> tuple[TargetEntry, ...]:
    """The requested targets, or all, that at least one of the engines can run.

    Raises:
        InputError: the bundle does not contain a target, or no engine runs any.
    """
    entries = bundle.manifest.targets
    present = {entry.target for entry in entries}
    for target in targets:
        if target not in present:
            raise InputError(
                f"{bundle.path} contains no target {target}. Choose from: {', '.join(map(str, sorted(present)))}."
            )
    chosen = [entry for entry in entries if not targets or entry.target in targets]
    able = tuple(entry for entry in chosen if set(entry.engines).intersection(engines))
    if not able:
        raise InputError(f"{bundle.path} contains none of these targets for the engines {', '.join(engines)}.")
    return able


def plan_groups(request: Request) -> list[GroupPlan]:
    """List the groups of a bench.

    Quick: every depth at its widest dim, with baselines, on the texts of each length and on one text at a time; the
    longest texts and one text at a time also at each further thread count. Full: every dim and token budget too.
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
        groups.append(GroupPlan("throughput", "dim", middle, most, every, False))
    if full:
        ends = [run for run in depths if run.entry.depth in (depths[0].entry.depth, depths[-1].entry.depth)]
        runs = tuple(
            Run(run.entry, run.engine, budget)
            for run in ends
            for budget in sorted({*request.batch_tokens, run.batch_tokens})
        )
        groups.append(GroupPlan("throughput", "batch_tokens", lengths[-1], most, runs, False))
    groups += [GroupPlan("latency", "depth", lengths[0], count, depths, count == most) for count in request.threads]
    return groups


def _widest(entries: Sequence[TargetEntry]) -> list[TargetEntry]:
    """The widest target of each depth and dtype."""
    found: dict[tuple[str, int], TargetEntry] = {}
    for entry in sorted(entries, key=lambda entry: entry.dim):
        found[entry.dtype, entry.depth] = entry
    return [found[key] for key in sorted(found)]


def _runs(entries: Sequence[TargetEntry], engines: Sequence[str]) -> tuple[Run, ...]:
    # Sorted by depth within dtype and engine, so that the first and the last are the ends of one line.
    return tuple(Run.default(entry, engine) for engine in engines for entry in entries if engine in entry.engines)
