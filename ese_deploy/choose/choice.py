"""Choosing the best candidate within all budgets, which budgets bind, and which to relax where nothing fits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.choose.budgets import LatencyBudget, QualityBudget, ThroughputBudget
from ese_deploy.measurements.cases import Case, Kind
from ese_deploy.system.machine import Machine

__all__ = [
    "Budgets",
    "Candidate",
    "Choice",
    "Doubt",
    "Limit",
    "LimitName",
    "Outcome",
    "Prefer",
    "choose_among",
    "dominates",
    "limits_of",
]


class Prefer(StrEnum):
    """What a choice is best at, among the targets that fit."""

    QUALITY = "quality"
    SPEED = "speed"
    SIZE = "size"


class LimitName(StrEnum):
    """What a budget limits."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    SIZE = "size"
    MEMORY = "memory"
    QUALITY = "quality"
    ENGINE = "engine"
    DTYPE = "dtype"
    DEPTH = "depth"
    DIM = "dim"
    TRAINED = "trained"

    @property
    def is_minimum(self) -> bool:
        """Whether more is better."""
        return self in (LimitName.THROUGHPUT, LimitName.QUALITY)


class Doubt(StrEnum):
    """Why a target is not recommended, whatever else it meets."""

    UNTRAINED = "untrained exit"
    LOW_AGREEMENT = "low agreement"
    FAILED_CHECK = "failed check"


@dataclass(frozen=True)
class Budgets:
    """What a target must meet, and what to prefer among the targets that do.

    Attributes:
        latency: limit of the time for one text.
        throughput: least texts per second.
        size: limit of the bytes on disk: graph, the weights that it reads, tokenizer.
        memory: limit of the bytes that a process takes, the interpreter included.
        quality: least quality.
        engines: engines allowed, of equal ones the first is taken; empty for any.
        dtypes: dtypes allowed; empty for any.
        depth: the depth, or None for any.
        dim: the dim, or None for any.
        prefer: what to prefer; None for size where only quality is limited, else for quality.
        allow_untrained: whether targets with a :class:`Doubt` may be the answer. A budget that names the depth allows
            them too.
    """

    latency: LatencyBudget | None = None
    throughput: ThroughputBudget | None = None
    size: int | None = None
    memory: int | None = None
    quality: QualityBudget | None = None
    engines: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    depth: int | None = None
    dim: int | None = None
    prefer: Prefer | None = None
    allow_untrained: bool = False

    @property
    def aim(self) -> Prefer:
        """What the answer is best at."""
        if self.prefer is not None:
            return self.prefer
        costs = (self.latency, self.throughput, self.size, self.memory)
        return Prefer.SIZE if self.quality is not None and not any(costs) else Prefer.QUALITY

    @property
    def percentile(self) -> int:
        """The percentile of latencies."""
        return self.latency.percentile if self.latency else LatencyBudget.percentile

    @property
    def needs(self) -> dict[Kind, Case]:
        """What must have been measured on the machine, and how."""
        found: dict[Kind, Case] = {}
        if self.latency is not None or (self.aim is Prefer.SPEED and self.throughput is None):
            found["latency"] = self.latency.case if self.latency else Case()
        if self.throughput is not None:
            found["throughput"] = self.throughput.case
        if self.memory is not None:
            # A process has the threads that the other budgets name, and its memory grows with them.
            threads = [case.threads for case in found.values()]
            found["memory"] = Case(threads=max((one for one in threads if one), default=None) if all(threads) else None)
        return found


@dataclass(frozen=True)
class Candidate:
    """A target on an engine with its values; None where something was not measured.

    Attributes:
        entry: the target.
        engine: the engine.
        size: bytes on the disk.
        quality: figure that the budget names, or its share of the full model.
        latency: seconds, of the budget's percentile and case.
        throughput: texts a second.
        memory: bytes that a process takes, the interpreter included.
        doubt: why it is not recommended, if there is a reason.
    """

    entry: TargetEntry
    engine: str
    size: int
    quality: float | None = None
    latency: float | None = None
    throughput: float | None = None
    memory: float | None = None
    doubt: Doubt | None = None

    @property
    def name(self) -> str:
        """Such as ``3x128``."""
        return str(self.entry.target)


@dataclass(frozen=True)
class Limit:
    """One budget, applied to candidates.

    Attributes:
        name: what is limited.
        bound: the budget, None for a name.
        excess: by which share of the bound a candidate exceeds it; 0 where it meets it, infinite where no number
            relaxes it or the value is unknown.
        value: what the candidate has.
    """

    name: LimitName
    bound: float | None
    excess: Callable[[Candidate], float]
    value: Callable[[Candidate], float | str | None]


@dataclass(frozen=True)
class Outcome:
    """The result of relaxing or dropping budgets.

    Attributes:
        budgets: names of the budgets.
        needed: for each, the value that it has to allow.
        candidate: the best candidate then.
    """

    budgets: tuple[LimitName, ...]
    needed: tuple[float | str | None, ...]
    candidate: Candidate


@dataclass(frozen=True, repr=False)
class Choice:
    """The answer.

    Attributes:
        best: the best target, or None where nothing fits.
        runner_up: the next best, if there is one.
        fitting: all within the budgets, the best first.
        binding: budgets without which the answer is another one, with that answer.
        relax: where nothing fits, which budget to relax and to what, the least relaxation first.
        front: the Pareto front of quality and cost, the cheapest first.
        cost: the cost of the front: latency, throughput, memory or size.
        candidates: all targets on all engines, by name.
        budgets: what was asked.
        machine: whose measurements were used.
        busy_cores: processors that others used while it was measured; 0 on a quiet machine.
    """

    best: Candidate | None
    runner_up: Candidate | None
    fitting: list[Candidate]
    binding: list[Outcome]
    relax: list[Outcome]
    front: list[Candidate]
    cost: LimitName
    candidates: list[Candidate]
    budgets: Budgets
    machine: Machine | None = None
    busy_cores: float = 0.0

    def __repr__(self) -> str:
        answer = f"{self.best.name} on {self.best.engine}" if self.best else "no target"
        return f"Choice({answer}; {len(self.fitting)} of {len(self.candidates)} fit)"

    def __str__(self) -> str:
        """The answer, the reason and the binding budgets."""
        from ese_deploy.choose.explain import explain

        return explain(self)


def choose_among(candidates: Sequence[Candidate], budgets: Budgets) -> Choice:
    """Choose among candidates; the same candidates and budgets always give the same answer.

    Candidates are ordered by what is preferred, then by every other value, so that none within the budgets dominates
    the answer.
    """
    limits = limits_of(budgets)
    ordered = sorted(candidates, key=lambda candidate: _order(candidate, budgets))
    fitting = _within(ordered, limits)
    best = fitting[0] if fitting else None
    cost = _main_cost(budgets)
    return Choice(
        best=best,
        runner_up=fitting[1] if len(fitting) > 1 else None,
        fitting=fitting,
        binding=_binding(ordered, limits, best) if best else [],
        relax=[] if best else _relax(ordered, limits),
        front=_front(ordered, cost),
        cost=cost,
        candidates=sorted(candidates, key=lambda one: (one.entry.dtype, one.entry.depth, one.entry.dim, one.engine)),
        budgets=budgets,
    )


def dominates(first: Candidate, second: Candidate) -> bool:
    """Whether ``first`` is nowhere worse and somewhere better, in quality, latency, throughput, size and memory."""
    a, b = _axes(first), _axes(second)
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def limits_of(budgets: Budgets) -> list[Limit]:
    """The budgets that were stated, and the one that keeps targets with a doubt out."""
    limits = []
    for name, names, value in (
        (LimitName.ENGINE, budgets.engines, lambda c: c.engine),
        (LimitName.DTYPE, budgets.dtypes, lambda c: c.entry.dtype),
        (LimitName.DEPTH, (budgets.depth,) if budgets.depth else (), lambda c: c.entry.depth),
        (LimitName.DIM, (budgets.dim,) if budgets.dim else (), lambda c: c.entry.dim),
    ):
        if names:
            limits.append(Limit(name, None, _member(names, value), value))
    if not budgets.allow_untrained and budgets.depth is None:
        limits.append(
            Limit(LimitName.TRAINED, None, _member([None], lambda c: c.doubt), lambda c: c.doubt or "trained")
        )
    throughput = budgets.throughput
    bounds: list[tuple[LimitName, float | None, Callable[[Candidate], float | None]]] = [
        (LimitName.LATENCY, budgets.latency.seconds if budgets.latency else None, lambda c: c.latency),
        (LimitName.THROUGHPUT, throughput.texts_per_second if throughput else None, lambda c: c.throughput),
        (LimitName.SIZE, budgets.size, lambda c: c.size),
        (LimitName.MEMORY, budgets.memory, lambda c: c.memory),
        (LimitName.QUALITY, budgets.quality.value if budgets.quality else None, lambda c: c.quality),
    ]
    limits += [
        Limit(name, bound, _excess(bound, value, not name.is_minimum), value)
        for name, bound, value in bounds
        if bound is not None
    ]
    return limits


def _member(names: Sequence[object], value: Callable[[Candidate], object]) -> Callable[[Candidate], float]:
    return lambda candidate: 0.0 if value(candidate) in names else math.inf


def _excess(bound: float, value: Callable[[Candidate], float | None], most: bool) -> Callable[[Candidate], float]:
    def excess(candidate: Candidate) -> float:
        found = value(candidate)
        if found is None:
            return math.inf
        return max(0.0, found - bound if most else bound - found) / max(bound, 1e-12)

    return excess


def _within(candidates: Sequence[Candidate], limits: Sequence[Limit]) -> list[Candidate]:
    return [candidate for candidate in candidates if all(limit.excess(candidate) == 0 for limit in limits)]


def _axes(candidate: Candidate) -> tuple[float, float, float, float, float]:
    """Quality, latency, throughput, size, memory; less is better, and what is unknown counts as the worst."""

    def known(value: float | None, sign: int) -> float:
        return math.inf if value is None else sign * value

    return (
        known(candidate.quality, -1),
        known(candidate.latency, 1),
        known(candidate.throughput, -1),
        known(candidate.size, 1),
        known(candidate.memory, 1),
    )


def _order(candidate: Candidate, budgets: Budgets) -> tuple[object, ...]:
    quality, latency, throughput, size, memory = _axes(candidate)
    speed = (throughput, latency) if budgets.throughput is not None else (latency, throughput)
    axes = {
        Prefer.QUALITY: (quality, *speed, size, memory),
        Prefer.SPEED: (*speed, quality, size, memory),
        Prefer.SIZE: (size, quality, *speed, memory),
    }[budgets.aim]
    wanted = budgets.engines.index(candidate.engine) if candidate.engine in budgets.engines else len(budgets.engines)
    return (*axes, candidate.entry.dim, candidate.entry.name, wanted, candidate.engine)


def _binding(ordered: Sequence[Candidate], limits: Sequence[Limit], best: Candidate) -> list[Outcome]:
    found = []
    for limit in limits:
        others = [other for other in limits if other is not limit]
        without = _within(ordered, others)[0]
        if without is not best:
            found.append(Outcome((limit.name,), (limit.value(without),), without))
    return found


def _relax(ordered: Sequence[Candidate], limits: Sequence[Limit]) -> list[Outcome]:
    """The least relaxation of each single budget; where no single one helps, the least of several together."""
    found: list[tuple[float, Outcome]] = []
    for limit in limits:
        others = _within(ordered, [other for other in limits if other is not limit])
        known = [candidate for candidate in others if limit.value(candidate) is not None]
        if known:
            nearest = min(known, key=limit.excess)
            found.append((limit.excess(nearest), Outcome((limit.name,), (limit.value(nearest),), nearest)))
    if not found:
        found = _relax_together(ordered, limits)
    return [outcome for _, outcome in sorted(found, key=lambda item: item[0])]


def _relax_together(ordered: Sequence[Candidate], limits: Sequence[Limit]) -> list[tuple[float, Outcome]]:
    known = [c for c in ordered if all(limit.value(c) is not None for limit in limits)]
    if not known:
        return []

    def total(candidate: Candidate) -> tuple[int, float]:
        excess = [limit.excess(candidate) for limit in limits]
        return sum(map(math.isinf, excess)), sum(value for value in excess if math.isfinite(value))

    nearest = min(known, key=total)
    broken = [limit for limit in limits if limit.excess(nearest) > 0]
    names = tuple(limit.name for limit in broken)
    return [(0.0, Outcome(names, tuple(limit.value(nearest) for limit in broken), nearest))]


def _main_cost(budgets: Budgets) -> LimitName:
    return LimitName(next(iter(budgets.needs), "size"))


def _front(ordered: Sequence[Candidate], cost: LimitName) -> list[Candidate]:
    """Candidates beaten by none in quality and cost, the cheapest first; of equal ones the first in order."""
    axis = (None, LimitName.LATENCY, LimitName.THROUGHPUT, LimitName.SIZE, LimitName.MEMORY).index(cost)
    points = [(candidate, _axes(candidate)[axis], _axes(candidate)[0]) for candidate in ordered]
    front: list[Candidate] = []
    best = math.inf
    for candidate, price, quality in sorted(points, key=lambda point: point[1:]):
        if quality < best and math.isfinite(price):
            front.append(candidate)
            best = quality
    return front
