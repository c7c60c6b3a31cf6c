"""Candidates: a bundle's targets with size and quality from the manifest, and speed and memory from measurements."""

import functools
import importlib.metadata
from collections.abc import Mapping

from ese_deploy.bundle.manifest import Manifest, TargetEntry
from ese_deploy.bundle.metrics import AGREEMENT, describe_quality, find_quality
from ese_deploy.bundle.tolerances import failed_checks
from ese_deploy.choose.choice import Budgets, Candidate, Doubt
from ese_deploy.engines import ENGINES, OPT_IN_ENGINES
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import Case, Kind
from ese_deploy.measurements.store import Measurement, Measurements
from ese_deploy.system.threads import available_threads

__all__ = ["AGREEMENT_FLOOR", "agreement_of", "find_candidates", "missing_measurements", "size_on_disk"]

AGREEMENT_FLOOR = 0.5
"""Agreement with the full model below which a target is not recommended unless the budgets say so.

Untrained exits of all-MiniLM-L6-v2 have 0.19 to 0.46, its trained exit 3x128 has 0.71.
"""


def size_on_disk(manifest: Manifest, entry: TargetEntry) -> int:
    """Bytes of a target: its graph, the weights that it reads, the tokenizer."""
    return entry.bytes + entry.weight_bytes + manifest.tokenizer.bytes


def find_candidates(
    manifest: Manifest, budgets: Budgets, measured: Measurements | None, here: bool = True
) -> list[Candidate]:
    """All targets on all engines of this version, with the values that the budgets limit.

    An engine that needs an accelerator is a candidate only if the budgets name it.

    Args:
        manifest: of the bundle.
        budgets: the budgets.
        measured: measurements, or None.
        here: whether it was measured on this machine; then only figures of the engine versions installed count.

    Raises:
        InputError: no target has the quality figure that the budget names, there is no such engine, or all targets
            need an engine that was not named.
    """
    _check_names(manifest, budgets)
    figures = _index(measured, here)
    candidates = [
        Candidate(
            entry=entry,
            engine=engine,
            size=size_on_disk(manifest, entry),
            quality=_quality(entry, budgets),
            latency=_value(figures, entry, engine, "latency", budgets, f"p{_percentile(budgets)}", here),
            throughput=_value(figures, entry, engine, "throughput", budgets, "texts_per_second", here),
            memory=_value(figures, entry, engine, "memory", budgets, "process_peak_bytes", here),
            doubt=_doubt(manifest, entry, budgets),
        )
        for entry in manifest.targets
        for engine in ENGINES
        if engine in entry.engines and (engine in budgets.engines or engine not in OPT_IN_ENGINES)
    ]
    if not candidates and not budgets.engines:
        needed = sorted({engine for entry in manifest.targets for engine in entry.engines})
        raise InputError(
            f"Every target needs an accelerator. Name the engine of yours with `engines`: {' or '.join(needed)}."
        )
    return candidates


def missing_measurements(candidates: list[Candidate], budgets: Budgets) -> dict[Kind, tuple[Case, list[Candidate]]]:
    """What must still be measured: for each kind its case and the candidates without a figure."""
    lacking = {
        kind: (case, [candidate for candidate in candidates if getattr(candidate, kind) is None])
        for kind, case in budgets.needs.items()
    }
    return {kind: found for kind, found in lacking.items() if found[1]}


def _check_names(manifest: Manifest, budgets: Budgets) -> None:
    known = [engine for engine in budgets.engines if engine in ENGINES]
    if budgets.engines and not known:
        raise InputError(f"Unknown engine {' or '.join(budgets.engines)}. Choose one of: {', '.join(ENGINES)}.")
    if budgets.quality is None:
        return
    name = budgets.quality.metric
    if all(find_quality(entry.quality, name) is None for entry in manifest.targets):
        present = describe_quality([figure for entry in manifest.targets for figure in entry.quality])
        raise InputError(
            f"'{name}' names no quality figure, or several. The bundle has {present}. Add others with: "
            "ese-deploy evaluate BUNDLE --save"
        )


def _quality(entry: TargetEntry, budgets: Budgets) -> float | None:
    wanted = budgets.quality
    figure = find_quality(entry.quality, wanted.metric if wanted else "agreement")
    if figure is None:
        return None
    return figure.share_of_full if wanted is None or wanted.share else figure.value


def agreement_of(entry: TargetEntry) -> float | None:
    """The agreement of a target with the full model; None where it was not measured."""
    found = find_quality(entry.quality, AGREEMENT)
    return None if found is None else found.value


def _doubt(manifest: Manifest, entry: TargetEntry, budgets: Budgets) -> Doubt | None:
    if failed_checks(entry):
        return Doubt.FAILED_CHECK
    if not entry.trained and entry.depth != manifest.depth and manifest.projection != "aligned":
        return Doubt.UNTRAINED
    agreement = agreement_of(entry)
    # A required quality is the user's own floor.
    if budgets.quality is None and agreement is not None and agreement < AGREEMENT_FLOOR:
        return Doubt.LOW_AGREEMENT
    return None


def _percentile(budgets: Budgets) -> int:
    return budgets.latency.percentile if budgets.latency else 95


Index = Mapping[tuple[str, str, str, int], list[Measurement]]


def _index(measured: Measurements | None, here: bool) -> Index:
    found: dict[tuple[str, str, str, int], list[Measurement]] = {}
    for one in measured.measurements if measured else []:
        if not here or _current(one):
            found.setdefault((one.target, one.engine, one.kind, one.tokens), []).append(one)
    return found


def _value(
    figures: Index, entry: TargetEntry, engine: str, kind: Kind, budgets: Budgets, name: str, here: bool
) -> float | None:
    case = budgets.needs.get(kind, Case())
    measured = figures.get((entry.name, engine, kind, case.tokens), [])
    # The number of all threads of another machine is unknown here: the highest that was measured stands for it.
    threads = case.threads or (available_threads() if here else max((one.threads for one in measured), default=0))
    return next((one.values[name] for one in measured if one.threads == threads and name in one.values), None)


def _current(one: Measurement) -> bool:
    return all(version in _installed(name) for name, version in one.versions.items())


@functools.cache
def _installed(name: str) -> frozenset[str]:
    """The installed versions of a library, in any distribution that contains it; importing it would take long."""
    try:
        return frozenset({importlib.metadata.version(name)})
    except importlib.metadata.PackageNotFoundError:
        packages = importlib.metadata.packages_distributions().get(name, ())
        return frozenset(importlib.metadata.version(package) for package in packages)
