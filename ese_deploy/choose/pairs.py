"""Choosing the targets of documents and queries for a use in words, and explaining the choice in three sentences."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.choose.api import Measure, known_names, measured_candidates
from ese_deploy.choose.budgets import LatencyBudget, ThroughputBudget, parse_quality
from ese_deploy.choose.candidates import find_candidates
from ese_deploy.choose.choice import Budgets
from ese_deploy.choose.explain import warnings
from ese_deploy.choose.scenario import (
    DOCUMENT_TOKENS,
    PRECISIONS,
    QUERY_TOKENS,
    Need,
    Pair,
    PairLimit,
    excess,
    pairs_of,
    parse_need,
)
from ese_deploy.engines import DEFAULT_ENGINE, ENGINES
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import Case
from ese_deploy.system.machine import Machine
from ese_deploy.system.progress import Progress, silent
from ese_deploy.system.threads import available_threads
from ese_deploy.target import DTYPES

__all__ = ["PairChoice", "choose_for", "choose_pair"]


@dataclass(frozen=True, repr=False)
class PairChoice:
    """The answer.

    Attributes:
        need: what was asked.
        cores: cores that were counted on.
        best: the pair, or None where nothing fits.
        binding: limits without which the answer is another pair, with that pair.
        better: the pair with the next better quality or precision that needs the least more; None without one.
        nearest: where nothing fits, the pair that exceeds its limits least.
        quality: what the quality figures are.
        machine: where it was measured.
        busy_cores: processors that others used meanwhile.
    """

    need: Need
    cores: int
    best: Pair | None
    binding: list[tuple[PairLimit, Pair]]
    better: Pair | None
    nearest: Pair | None
    quality: str
    machine: Machine | None = None
    busy_cores: float = 0.0

    def __repr__(self) -> str:
        if self.best is None:
            return "PairChoice(no pair fits)"
        return f"PairChoice({self.best.index.name} for documents, {self.best.query.name} for queries)"

    def __str__(self) -> str:
        """The answer in words: the pair, what binds, what the next better costs, and what was not measured."""
        return "\n".join(_explain(self))


def choose_for(
    bundle: Bundle | str | Path,
    use: str,
    *,
    min_quality: str | float | None = None,
    engine: str | None = None,
    dtypes: Sequence[str] = (),
    allow_untrained: bool = False,
    measurements: str | Path | None = None,
    measure: Measure | bool = True,
    measure_again: bool = False,
    progress: Progress = silent,
) -> PairChoice:
    """Choose the targets of documents and queries for a use, such as ``10M documents, 50 queries/s, 2 cores, 512 MB``.

    Computes the size of the index, the time of indexing and the latency of queries from measurements: queries of 32
    tokens on one core, documents of 128 tokens on all cores. Of the pairs that fit it takes the most exact vectors,
    then the best quality, then the fastest queries, then the best documents.

    Args:
        bundle: the bundle, or its folder.
        use: documents, and if wanted queries/s, cores, memory (of the process and the vectors) and a latency.
        min_quality: as for :func:`ese_deploy.choose.choose`.
        engine: the engine; ``onnxruntime`` by default.
        dtypes: dtypes that are allowed.
        allow_untrained: allow exits that nobody trained, targets whose agreement with the full model is below 0.5, and
            targets that failed a check when they were exported.
        measurements: a file of ``ese-deploy measurements export``, of the machine that is to be used.
        measure: measure what this machine has not measured yet, as for :func:`ese_deploy.choose.choose`.
        measure_again: measure also what this machine has measured.
        progress: called while measuring.

    Raises:
        InputError: the use cannot be read, names more cores than this machine has, no target is allowed, or a
            measurement is missing.

    Example:
        >>> print(choose_for("exports/minilm", "1M documents, 50 queries/s, 2 cores, 2 GB"))
    """
    need = parse_need(use)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    here = available_threads()
    cores = need.cores or here
    if measurements is None and cores > here:
        raise InputError(
            f"`for` names {cores} cores, and this process may use {here}. Run this on that machine, or give its "
            "`measurements`."
        )
    budgets = Budgets(
        latency=LatencyBudget(float("inf"), 50, Case(QUERY_TOKENS, 1)),
        throughput=ThroughputBudget(0.0, Case(DOCUMENT_TOKENS, cores)),
        memory=2**63 - 1,
        quality=None if min_quality is None else parse_quality(str(min_quality)),
        engines=known_names("engine", [engine or DEFAULT_ENGINE], ENGINES),
        dtypes=known_names("dtype", dtypes, DTYPES),
    )
    names = _allowed(opened, budgets, allow_untrained)
    found = measured_candidates(opened, budgets, names, measurements, measure, measure_again, progress)
    candidates = [one for one in found.candidates if one.engine in budgets.engines]
    if budgets.quality is not None:
        least = budgets.quality.value
        candidates = [one for one in candidates if one.quality is not None and one.quality >= least]
    quality = "agreement with the full model" if budgets.quality is None else budgets.quality.metric
    return choose_pair(pairs_of(candidates, need, cores), need, cores, quality, found.machine, found.busy_cores)


def _allowed(opened: Bundle, budgets: Budgets, allow_untrained: bool) -> Collection[str]:
    """Names of the targets that may be chosen; the others are not measured."""
    every = [one for one in find_candidates(opened.manifest, budgets, None) if one.engine in budgets.engines]
    dtypes = budgets.dtypes or tuple(DTYPES)
    kept = {one.entry.name for one in every if one.entry.dtype in dtypes and (allow_untrained or one.doubt is None)}
    if not kept:
        raise InputError(
            f"No target of {opened.path} may be chosen: exits are not trained, their agreement with the full model is "
            "below 0.5, or they failed a check. Train them, or set `allow_untrained=True`."
        )
    return kept


def choose_pair(
    pairs: Sequence[Pair],
    need: Need,
    cores: int,
    quality: str,
    machine: Machine | None = None,
    busy_cores: float = 0.0,
) -> PairChoice:
    """Choose among pairs; the same pairs always give the same answer."""
    ordered = sorted(pairs, key=_order)
    limits = list(PairLimit)
    best = _first(ordered, need, limits)
    if best is None:
        nearest = min(ordered, key=lambda pair: (_excess(pair, need), _order(pair)), default=None)
        return PairChoice(need, cores, None, [], None, nearest, quality, machine, busy_cores)
    binding = []
    for limit in limits:
        without = _first(ordered, need, [other for other in limits if other is not limit])
        if without is not None and without is not best:
            binding.append((limit, without))
    better = [pair for pair in ordered if pair.precision == best.precision and pair.quality > best.quality]
    better = better or [
        pair for pair in ordered if _exactness(pair) < _exactness(best) and pair.quality >= best.quality
    ]
    cheapest = min(better, key=lambda pair: (_excess(pair, need), pair.memory, _order(pair)), default=None)
    return PairChoice(need, cores, best, binding, cheapest, None, quality, machine, busy_cores)


def _first(ordered: Sequence[Pair], need: Need, limits: Sequence[PairLimit]) -> Pair | None:
    return next((pair for pair in ordered if not any(excess(pair, need, limit) for limit in limits)), None)


def _excess(pair: Pair, need: Need) -> float:
    return sum(excess(pair, need, limit) for limit in PairLimit)


def _exactness(pair: Pair) -> int:
    return list(PRECISIONS).index(pair.precision)


def _order(pair: Pair) -> tuple[object, ...]:
    names = (pair.index.name, pair.query.name)
    # Documents are embedded once: of pairs that are alike for queries, the one whose documents are best.
    documents = (-(pair.index.quality or 0.0), pair.indexing_seconds)
    return (_exactness(pair), -pair.quality, pair.latency, *documents, pair.memory, names)


def _explain(choice: PairChoice) -> list[str]:
    if choice.best is None:
        if choice.nearest is None:
            return ["No pair of targets was measured."]
        over = [limit for limit in PairLimit if excess(choice.nearest, choice.need, limit)]
        nearest = f"{_describe(choice.nearest)}, at {choice.nearest.latency * 1e3:.2f} ms a query"
        return [f"No pair fits. The nearest is {nearest}. It exceeds: {', '.join(over)}.", *_busy(choice)]
    best = choice.best
    lines = [
        f"Best: {_describe(best)}. Indexing {choice.need.documents:,} documents of {DOCUMENT_TOKENS} tokens takes "
        f"{_hours(best.indexing_seconds)} on {choice.cores} cores. A query of {QUERY_TOKENS} tokens takes "
        f"{best.latency * 1e3:.2f} ms (median, one core), and {choice.need.queries_per_second:g} a second take "
        f"{best.load:.0%} of the cores."
    ]
    chosen = {one.name: one for one in (best.index, best.query)}
    lines += [f"Warning: {line}." for one in chosen.values() for line in warnings(one)]
    bound = [f"{limit}: without it the answer is {_describe(pair)}" for limit, pair in choice.binding]
    lines.append(f"Binding: {'; '.join(bound)}." if bound else "Binding: nothing. The best pair of the bundle fits.")
    if choice.better is None:
        lines.append("Next better: none in this bundle.")
    else:
        more = f"{_hours(choice.better.indexing_seconds)} of indexing, {choice.better.latency * 1e3:.2f} ms a query"
        lines.append(f"Next better: {_describe(choice.better)}, at {more}.")
    unknown = ["the search in the index and its graph or lists, which need memory and time of their own"]
    unknown += [] if best.symmetric else ["the quality of queries and documents of different depths"]
    unknown += [] if best.precision == "float32" else [f"what {best.precision} vectors lose"]
    lines.append(f"Not measured: {'; '.join(unknown)}.")
    return [*lines, *_busy(choice)]


def _busy(choice: PairChoice) -> list[str]:
    if not choice.busy_cores:
        return []
    return [
        f"Busy: others used {choice.busy_cores:.1f} cores while the targets were measured. Times are too long and were "
        "not stored."
    ]


def _describe(pair: Pair) -> str:
    if pair.symmetric:
        targets = f"{pair.index.name} for documents and queries"
    else:
        targets = f"{pair.index.name} for documents, {pair.query.name} for queries"
    sizes = f"{_size(pair.index_bytes)} of vectors, {_size(pair.memory)} with the process"
    return f"{targets}, {pair.precision} vectors (quality {pair.quality:.3f}, {sizes})"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
