"""Fifty budgets for a bundle, and what is wrong with the answers of ``choose``.

The manifest is read here without the package's own code, so that a mistake there is seen.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ese_deploy.bench.measure import Effort, measure
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose import Candidate, Choice, choose
from ese_deploy.choose.api import Measure
from ese_deploy.choose.choice import LimitName, Outcome
from ese_deploy.choose.explain import explain
from ese_deploy.engines import DEFAULT_ENGINE
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import Case, Kind
from ese_deploy.measurements.store import Measurement
from ese_deploy.system.progress import Progress, silent

__all__ = ["Answer", "answers", "budgets", "measure_roughly", "problems"]

FLOOR = 0.5
_FIDELITY = {"cosine_mean": 0.99, "cosine_p01": 0.98, "agreement": 0.98, "neighbour_overlap_at_10": 0.85}
_ARGUMENTS = {
    LimitName.LATENCY: ("max_latency", lambda value: f"{value * 1e6 + 0.01:.2f}us"),
    LimitName.THROUGHPUT: ("min_throughput", lambda value: f"{value * 0.999:.6f}/s"),
    LimitName.SIZE: ("max_size", lambda value: f"{value:.0f}B"),
    LimitName.MEMORY: ("max_memory", lambda value: f"{value:.0f}B"),
}

Budget = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What ``choose`` says to a budget.

    Attributes:
        budget: arguments of :func:`ese_deploy.choose.choose`.
        target: the target, or None where nothing fits.
        said: what it prints.
        problems: what is wrong with it.
    """

    budget: Budget
    target: str | None
    said: str
    problems: tuple[str, ...]


def measure_roughly(
    bundle: Bundle,
    entries: Sequence[TargetEntry],
    kind: Kind,
    case: Case,
    engine: str = DEFAULT_ENGINE,
    *,
    progress: Progress = silent,
) -> list[Measurement]:
    """Measure in few rounds, and keep what a busy machine gives: right answers need no exact times."""
    found = measure(bundle, entries, kind, case, engine, Effort(rounds=3, calls=3), progress)
    return [msgspec.structs.replace(one, busy_cores=0.0) for one in found]


def answers(bundle: Path, measured: Measure) -> Iterator[Answer]:
    """Ask for all budgets.

    Args:
        bundle: its folder.
        measured: measures, as for :func:`ese_deploy.choose.choose`; what it finds is stored in the cache.
    """
    limits = {"max_latency": "1000s", "min_throughput": "0.000001/s", "max_memory": "10000GB"}
    known = choose(bundle, **limits, allow_untrained=True, measure=measured)
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    for budget in budgets(known.candidates):
        try:
            choice = choose(bundle, **budget, measure=measured)
        except InputError as error:
            yield Answer(budget, None, str(error), (f"refused: {error}",))
            continue
        found = (*problems(manifest, budget, choice), *_wrong_hints(bundle, budget, choice, measured))
        yield Answer(budget, choice.best.name if choice.best else None, explain(choice, options=True), found)


def budgets(candidates: Sequence[Candidate]) -> list[Budget]:
    """Fifty budgets between the least and the most that the targets take, and six that nothing meets."""
    latency = [f"{value * 1e6 + 0.01:.2f}us" for value in _quantiles(one.latency for one in candidates)]
    memory = [f"{value:.0f}B" for value in _quantiles(one.memory for one in candidates)]
    size = [f"{value:.0f}B" for value in _quantiles(one.size for one in candidates)]
    rate = [f"{value * 0.999:.3f}/s" for value in _quantiles(one.throughput for one in candidates)]
    labelled = any(figure.data == "topics.tsv" for one in candidates for figure in one.entry.quality)
    share = "90% topics" if labelled else "90%"
    found: list[Budget] = [{}, {"prefer": "speed"}, {"prefer": "size"}]
    found += [
        {"max_latency": f"{value} {percentile}"} for value in latency[::2] for percentile in ("p50", "p95", "p99")
    ]
    found += [{"max_memory": value} for value in memory[:4]]
    found += [{"max_size": value} for value in size]
    found += [{"min_throughput": value} for value in rate[:3]]
    found += [{"min_quality": value} for value in ("0.2", "0.45", "0.6", "95%", "100%", share)]
    found += [{"min_quality": value, "prefer": "speed"} for value in ("0.3", share)]
    for low, high in ((1, 3), (3, 1), (4, 4)):
        found.append({"max_latency": latency[low], "max_memory": memory[high]})
        found.append({"max_latency": latency[low], "min_quality": "0.3"})
        found.append({"max_size": size[low], "min_throughput": rate[high], "prefer": "speed"})
    found += [{"max_latency": latency[2], "max_memory": memory[2], "max_size": size[2], "min_quality": share}]
    found += [{"max_latency": "1us"}, {"max_memory": "1MB"}, {"max_size": "100B"}, {"min_throughput": "1000000000/s"}]
    found += [{"max_latency": "1us", "max_memory": "1MB"}, {"max_size": "100B", "min_quality": "100%"}]
    found += [{"prefer": "speed", "allow_untrained": True}, {"max_size": size[0], "allow_untrained": True}]
    return found


def problems(manifest: dict[str, Any], budget: Budget, choice: Choice) -> Iterator[str]:
    """What is wrong with an answer, by the figures of the manifest and the choice's own measurements."""
    said, best = explain(choice, options=True), choice.best
    if best is None:
        if "No target fits." not in said or not choice.relax:
            yield "nothing fits, and no way out is named"
        return
    entry = next(one for one in manifest["targets"] if one["name"] == best.entry.name)
    figures = {figure["metric"]: figure for figure in entry["quality"]}
    warned = f"Warning: {best.name} " in said
    doubts = list(_doubts(manifest, entry))
    if doubts and not (budget.get("allow_untrained") and warned):
        yield f"{best.name} ({', '.join(doubts)}) is recommended, which was not allowed or is not said"
    if figures["agreement"]["value"] < FLOOR:
        if not (budget.get("allow_untrained") or "min_quality" in budget):
            yield f"{best.name} has an agreement of {figures['agreement']['value']}, which was not allowed"
        if f"Warning: {best.name} has an agreement of" not in said:
            yield f"{best.name} has an agreement of {figures['agreement']['value']}, which is not said"
    if "min_quality" in budget and _quality(figures, budget["min_quality"]) < _number(budget["min_quality"]):
        yield f"{best.name} is below the required quality"
    for name, (argument, _) in _ARGUMENTS.items():
        if argument in budget:
            value, limit = getattr(best, name), _number(budget[argument])
            if value is None or (value < limit * 0.999 if name.is_minimum else value > limit * 1.001):
                yield f"{best.name} has {name} {value}, the limit is {limit}"


def _doubts(manifest: dict[str, Any], entry: dict[str, Any]) -> Iterator[str]:
    if not entry["trained"] and entry["depth"] != manifest["depth"] and manifest["projection"] != "aligned":
        yield "untrained"
    fidelity = entry.get("fidelity") or {}
    if any(one.get("passed") is False for one in entry["parity"]) or any(
        fidelity[name] < least for name, least in _FIDELITY.items() if name in fidelity
    ):
        yield "failed a check"


def _quality(figures: dict[str, dict[str, Any]], wanted: str) -> float:
    return float(figures["sts_spearman" if "topics" in wanted else "agreement"]["share_of_full"])


def _number(text: str) -> float:
    """The number of a budget, in seconds, bytes, texts per second or as a share."""
    word = text.split()[0]
    for unit, factor in (("us", 1e-6), ("MB", 1e6), ("B", 1), ("/s", 1), ("%", 0.01), ("", 1)):
        if word.endswith(unit):
            return float(word.removesuffix(unit)) * factor
    raise ValueError(text)


def _wrong_hints(bundle: Path, budget: Budget, choice: Choice, measured: Measure) -> Iterator[str]:
    """What "Relax ..." promises, done."""
    for outcome in choice.relax:
        relaxed = choose(bundle, **{**budget, **_relaxed(budget, outcome)}, measure=measured)
        if outcome.candidate.name not in [one.name for one in relaxed.fitting]:
            yield f"relaxing {' and '.join(outcome.budgets)} does not let {outcome.candidate.name} fit"


def _relaxed(budget: Budget, outcome: Outcome) -> Budget:
    changes: Budget = {}
    for name, needed in zip(outcome.budgets, outcome.needed, strict=True):
        if name in _ARGUMENTS and isinstance(needed, float | int):
            argument, written = _ARGUMENTS[name]
            # The percentile stays.
            changes[argument] = " ".join([written(needed), *budget[argument].split()[1:]])
        elif name is LimitName.TRAINED:
            changes["allow_untrained"] = True
        elif name is LimitName.QUALITY and isinstance(needed, float):
            _, *data = budget["min_quality"].split()
            changes["min_quality"] = " ".join([f"{max(0.0, needed - 1e-9) * 100:.7f}%", *data])
    return changes


def _quantiles(values: Iterator[float | None]) -> list[float]:
    """The 10th, 30th, 50th, 70th and 90th percentile."""
    known = sorted(value for value in values if value is not None)
    return [known[round(share * (len(known) - 1))] for share in (0.1, 0.3, 0.5, 0.7, 0.9)]
