"""The choice of a target as one function."""

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle, comparable_names, open_bundle
from ese_deploy.choose.budgets import (
    parse_latency,
    parse_quality,
    parse_size,
    parse_throughput,
)
from ese_deploy.choose.candidates import find_candidates, missing_measurements
from ese_deploy.choose.choice import Budgets, Candidate, Choice, Prefer, choose_among
from ese_deploy.choose.profiles import Profile, bundle_profiles, find_profile, profile_budgets
from ese_deploy.engines import DEFAULT_ENGINE, ENGINES
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import Case, Kind
from ese_deploy.measurements.store import (
    Measurement,
    Measurements,
    check_owner,
    load_measurements,
    merge_measurements,
    read_measurements,
    store_measurements,
)
from ese_deploy.system.machine import Machine, describe_machine
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import DTYPES, Target

__all__ = ["Measure", "Measured", "choose", "known_names", "measured_candidates"]

_LOG = logging.getLogger(__name__)

Missing = Mapping[Kind, tuple[Case, list[Candidate]]]


class Measure(Protocol):
    """Measures targets on this machine, such as :func:`ese_deploy.bench.measure`."""

    def __call__(
        self,
        bundle: Bundle,
        entries: Sequence[TargetEntry],
        kind: Kind,
        case: Case,
        engine: str = ...,
        *,
        progress: Progress = ...,
    ) -> list[Measurement]:
        """Measure the targets on one engine."""
        ...


def choose(
    bundle: Bundle | str | Path,
    *,
    max_latency: str | None = None,
    min_throughput: str | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    min_quality: str | float | None = None,
    engines: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    prefer: str | None = None,
    allow_untrained: bool = False,
    index_target: Target | str | None = None,
    profile: str | None = None,
    profiles: str | Path | Mapping[str, Profile] | None = None,
    measurements: str | Path | None = None,
    measure: Measure | bool = True,
    measure_again: bool = False,
    progress: Progress = silent,
) -> Choice:
    """Choose the best target of a bundle within budgets.

    Args:
        bundle: the bundle, or its folder.
        max_latency: such as ``5ms`` or ``5ms p99 128 tokens 1 thread``; by default the 95th percentile of one text of
            32 tokens, with all threads.
        min_throughput: such as ``200/s``, in batches of 32 texts.
        max_size: such as ``40MB``: graph, weights and tokenizer.
        max_memory: such as ``200MB``: what a process takes, the interpreter included.
        min_quality: such as ``0.97`` (agreement), ``0.80 stsb``, or ``97% stsb`` (of the full model).
        engines: engines that are allowed; of equal ones the first is taken.
        dtypes: dtypes that are allowed.
        prefer: ``quality``, ``speed`` or ``size``; by default quality, or size where only quality is limited.
        allow_untrained: allow exits that nobody trained, targets whose agreement with the full model is below 0.5, and
            targets that failed a check when they were exported.
        index_target: choose a target for queries of an index that this target has made, such as ``6x128``: only targets
            with its dim and embedding space count.
        profile: a budget profile whose budgets apply where no argument is given.
        profiles: your own profiles: a TOML file, or profiles that were read.
        measurements: a file of ``ese-deploy measurements export``: choose for the machine that it comes from.
        measure: measure what this machine has not measured yet, with :func:`ese_deploy.bench.measure` or a function
            like it. The figures are stored, unless others used the processors meanwhile. False: missing measurements
            are an error.
        measure_again: measure also what this machine has measured.
        progress: called while measuring.

    Returns:
        The choice; its ``best`` is None where nothing fits. ``print(choice)`` explains it.

    Raises:
        InputError: a budget cannot be read, no target is comparable with the index, or a measurement is missing; the
            message says how to make it.

    Example:
        >>> choice = choose("exports/minilm", max_latency="5ms", min_quality="90% stsb")
        >>> encoder = Encoder.open("exports/minilm", choice.best.entry.target, engine=choice.best.engine)
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    names = {entry.name for entry in opened.manifest.targets}
    if index_target is not None:
        names = comparable_names(opened, index_target)
    budgets = _profile_budgets(opened, profile, profiles)
    budgets = replace(
        budgets,
        latency=parse_latency(max_latency) if max_latency else budgets.latency,
        throughput=parse_throughput(min_throughput) if min_throughput else budgets.throughput,
        size=parse_size(max_size) if max_size else budgets.size,
        memory=parse_size(max_memory, "a memory") if max_memory else budgets.memory,
        quality=budgets.quality if min_quality is None else parse_quality(str(min_quality)),
        engines=known_names("engine", engines, ENGINES) or budgets.engines,
        dtypes=known_names("dtype", dtypes, DTYPES) or budgets.dtypes,
        prefer=_prefer(prefer) or budgets.prefer,
        allow_untrained=allow_untrained or budgets.allow_untrained,
    )
    found = measured_candidates(opened, budgets, names, measurements, measure, measure_again, progress)
    return replace(choose_among(found.candidates, budgets), machine=found.machine, busy_cores=found.busy_cores)


@dataclass(frozen=True)
class Measured:
    """Candidates with what was measured of them.

    Attributes:
        candidates: targets on engines.
        machine: whose measurements they are.
        busy_cores: processors that others used while it was measured; 0 on a quiet machine.
    """

    candidates: list[Candidate]
    machine: Machine
    busy_cores: float


def measured_candidates(
    opened: Bundle,
    budgets: Budgets,
    names: Collection[str],
    measurements: str | Path | None,
    measure: Measure | bool,
    measure_again: bool,
    progress: Progress,
) -> Measured:
    """The candidates of some targets; what the budgets need and is missing is measured. As :func:`choose` otherwise.

    Args:
        opened: the bundle.
        budgets: what is needed of each.
        names: names of the targets.
        measurements: as for :func:`choose`.
        measure: likewise.
        measure_again: likewise.
        progress: likewise.
    """
    stored, here = _stored(opened, measurements)
    known = None if measure_again and measure and here else stored
    candidates = [one for one in find_candidates(opened.manifest, budgets, known, here) if one.entry.name in names]
    missing = missing_measurements(candidates, budgets)
    busy = 0.0
    if missing:
        if not measure or not here:
            raise InputError(_how_to_measure(opened, missing, here))
        stored, busy = _measure(opened, missing, _of_the_bench if measure is True else measure, progress)
        candidates = [one for one in find_candidates(opened.manifest, budgets, stored) if one.entry.name in names]
        still = missing_measurements(candidates, budgets)
        if unknown := [kind for kind, (_, without) in still.items() if len(without) == len(candidates)]:
            raise InputError(
                f"This system does not report the {' and '.join(unknown)} of a target. Leave that budget out, or give "
                "`measurements` of another machine."
            )
    return Measured(candidates, stored.machine, busy)


def _profile_budgets(
    opened: Bundle, profile: str | None, profiles: str | Path | Mapping[str, Profile] | None
) -> Budgets:
    if profile is None:
        if profiles is not None:
            raise InputError("`profiles` needs `profile`, the name of the profile to use.")
        return Budgets()
    found = find_profile(bundle_profiles(opened, profiles), profile)
    if found.target is not None:
        raise InputError(f"Profile {profile} names the target {found.target}; there is nothing to choose.")
    return profile_budgets(found, opened.manifest.depth, opened.manifest.width)


def known_names(what: str, names: Sequence[str], allowed: Collection[str]) -> tuple[str, ...]:
    """Check names of engines or dtypes.

    Raises:
        InputError: one is unknown.
    """
    for name in names:
        if name not in allowed:
            raise InputError(f"Unknown {what} '{name}'. Choose one of: {', '.join(allowed)}.")
    return tuple(names)


def _prefer(name: str | None) -> Prefer | None:
    if name is None:
        return None
    try:
        return Prefer(name)
    except ValueError:
        raise InputError(f"`prefer` is quality, speed or size, got '{name}'.") from None


def _stored(opened: Bundle, file: str | Path | None) -> tuple[Measurements, bool]:
    """Measurements, and whether they are this machine's."""
    if file is None:
        return load_measurements(opened), True
    stored = read_measurements(Path(file))
    check_owner(stored, opened, Path(file))
    return stored, stored.machine.key == describe_machine().key


def _groups(missing: Missing) -> list[tuple[Kind, Case, str, list[TargetEntry]]]:
    return [
        (kind, case, engine, [one.entry for one in group if one.engine == engine])
        for kind, (case, group) in missing.items()
        for engine in sorted({one.engine for one in group})
    ]


def _measure(opened: Bundle, missing: Missing, measure: Measure, progress: Progress) -> tuple[Measurements, float]:
    """All measurements with the missing ones, and the most processors that others used meanwhile."""
    _LOG.info("Measuring what this machine has not measured yet. The figures are stored.")
    found = load_measurements(opened)
    not_stored, busy = None, 0.0
    for kind, case, engine, entries in _groups(missing):
        fresh = measure(opened, entries, kind, case, engine, progress=progress)
        found = merge_measurements(found, fresh)
        busy = max(busy, *(one.busy_cores for one in fresh))
        try:
            store_measurements(opened, [one for one in fresh if not one.busy_cores])
        except InputError as error:
            not_stored = error
    if not_stored is not None:
        _LOG.warning("The figures are used for this answer and not stored: %s", not_stored)
    return found, busy


def _of_the_bench(
    bundle: Bundle,
    entries: Sequence[TargetEntry],
    kind: Kind,
    case: Case,
    engine: str = DEFAULT_ENGINE,
    *,
    progress: Progress = silent,
) -> list[Measurement]:
    # A choice from stored measurements needs no engine and none of the libraries of the bench.
    from ese_deploy.bench.measure import measure

    return measure(bundle, entries, kind, case, engine, progress=progress)


def _how_to_measure(opened: Bundle, missing: Missing, here: bool) -> str:
    def command(kind: Kind, case: Case, engine: str) -> str:
        words = ["ese-deploy", "measurements", "make", str(opened.path), f"--{kind}"]
        words += [] if case.tokens == Case().tokens else ["--tokens", str(case.tokens)]
        words += ["--threads", str(case.threads)] if case.threads else []
        words += [] if engine == DEFAULT_ENGINE else ["--engine", engine]
        return shlex.join(words)

    where = "This machine" if here else "The machine of the file"
    targets = len({one.name for _, group in missing.values() for one in group})
    cases = ", ".join(f"{kind} at {case}" for kind, (case, _) in missing.items())
    commands = " && ".join(command(kind, case, engine) for kind, case, engine, _ in _groups(missing))
    return (
        f"{where} has not measured the {' and '.join(missing)} of {targets} targets ({cases}). Measure there with: "
        f"{commands}"
    )
