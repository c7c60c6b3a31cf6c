"""Resolving a budget profile: which target of a bundle it takes on this machine, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.choose.candidates import find_candidates
from ese_deploy.choose.choice import Budgets, Candidate, Prefer, choose_among
from ese_deploy.choose.explain import warnings
from ese_deploy.choose.profiles import Profile, Relaxable, bundle_profiles, find_profile, profile_budgets
from ese_deploy.engines import DEFAULT_ENGINE
from ese_deploy.errors import InputError
from ese_deploy.measurements.store import Measurements, load_measurements
from ese_deploy.target import Target

__all__ = ["ResolvedProfile", "resolve_in_manifest", "resolve_profile"]


@dataclass(frozen=True)
class ResolvedProfile:
    """The target that a profile takes.

    Attributes:
        target: the target.
        engine: the engine to run it on.
        reason: why, in words.
        fell_back: whether something that the profile asks for is not available.
    """

    target: Target
    engine: str
    reason: str
    fell_back: bool = False


def resolve_profile(
    bundle: Bundle | str | Path, name: str, profiles: str | Path | Mapping[str, Profile] | None = None
) -> ResolvedProfile:
    """Find the target that a budget profile takes in a bundle, with what this machine has measured of it.

    Args:
        bundle: the bundle, or its folder.
        name: the profile, such as ``edge``.
        profiles: your own profiles: a TOML file, or profiles that were read. They override those of the bundle, which
            override those of the package.

    Raises:
        InputError: there is no such profile, or no target fits it; the message says why and what to do.
        BundleError: the bundle is missing or damaged.

    Example:
        >>> found = resolve_profile("exports/minilm", "edge")
        >>> encoder = Encoder.open("exports/minilm", found.target, engine=found.engine)
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    known = bundle_profiles(opened, profiles)
    profile = find_profile(known, name)
    try:
        return resolve_in_manifest(name, profile, opened.manifest, load_measurements(opened))
    except InputError as error:
        raise InputError(f"{error}. See: ese-deploy choose {opened.path} --profile {name}") from None


def resolve_in_manifest(
    name: str, profile: Profile, manifest: Manifest, measured: Measurements | None = None
) -> ResolvedProfile:
    """Find the target that a profile takes among those of a manifest.

    Args:
        name: the profile's name, for the reason.
        profile: the profile.
        manifest: of the bundle.
        measured: what this machine measured of the bundle, for budgets on time and memory.

    Raises:
        InputError: no target fits.
    """
    if profile.target is not None:
        return _named_target(name, profile, manifest, Target.parse(profile.target))
    budgets = profile_budgets(profile, manifest.depth, manifest.width)
    try:
        candidates = find_candidates(manifest, budgets, measured)
    except InputError as error:
        raise InputError(f"Profile {name}: {error}") from None
    unmeasured = [kind for kind in budgets.needs if all(getattr(one, kind) is None for one in candidates)]
    if unmeasured:
        raise InputError(f"Profile {name} limits {' and '.join(unmeasured)}, which this machine has not measured")
    return _within_budgets(name, profile, budgets, candidates)


def _named_target(name: str, profile: Profile, manifest: Manifest, target: Target) -> ResolvedProfile:
    entry = next((entry for entry in manifest.targets if entry.target == target), None)
    if entry is None:
        raise InputError(f"Profile {name} names {target}, which the bundle does not contain")
    wanted = profile_budgets(profile, manifest.depth, manifest.width).engines
    engine = next((one for one in wanted if one in entry.engines), DEFAULT_ENGINE)
    return ResolvedProfile(target, engine, f"Profile {name} names {target}")


def _within_budgets(name: str, profile: Profile, budgets: Budgets, candidates: list[Candidate]) -> ResolvedProfile:
    """Try dtypes in the order wanted; where none fits, drop the budgets that may be relaxed, one after the other."""
    notes = _missing_notes(budgets, candidates)
    relaxed = budgets
    for dropped in (None, *profile.may_relax):
        if dropped is not None:
            relaxed = _relax(relaxed, dropped)
            notes.append(f"{dropped} is dropped because no target meets it")
        for dtype in budgets.dtypes or (None,):
            wanted = replace(relaxed, dtypes=(dtype,)) if dtype else relaxed
            best = choose_among(candidates, wanted).best
            if best is not None:
                reason = f"Profile {name}: {best.name} on {best.engine} is the {_AIMS[wanted.aim]} within the budget"
                notes += [f"no {other} target fits" for other in _preferred_to(dtype, budgets, candidates)]
                return ResolvedProfile(
                    best.entry.target, best.engine, "; ".join([reason, *warnings(best), *notes]), bool(notes)
                )
    fixes = [
        f"{outcome.candidate.name} fits with another {' and '.join(outcome.budgets)}"
        for outcome in choose_among(candidates, budgets).relax[:1]
    ]
    raise InputError("; ".join([f"Profile {name}: no target fits", *fixes, *notes]))


_AIMS = {Prefer.QUALITY: "best", Prefer.SPEED: "fastest", Prefer.SIZE: "smallest"}


def _preferred_to(dtype: str | None, budgets: Budgets, candidates: list[Candidate]) -> list[str]:
    """Dtypes that the profile prefers to ``dtype`` and that the bundle contains."""
    present = {candidate.entry.dtype for candidate in candidates}
    preferred = budgets.dtypes[: budgets.dtypes.index(dtype)] if dtype else ()
    return [other for other in preferred if other in present]


def _missing_notes(budgets: Budgets, candidates: list[Candidate]) -> list[str]:
    engines, dtypes = {one.engine for one in candidates}, {one.entry.dtype for one in candidates}
    notes = []
    for what, wanted, present in (("engine", budgets.engines, engines), ("dtype", budgets.dtypes, dtypes)):
        first = next((name for name in wanted if name in present), None)
        missing = wanted if first is None else wanted[: wanted.index(first)]
        if missing:
            instead = "" if first is None else f", {first} is used instead"
            notes.append(f"no target has the {what} {' or '.join(missing)}{instead}")
    return notes


def _relax(budgets: Budgets, key: Relaxable) -> Budgets:
    """Drop a budget, and choose the target that comes nearest to it."""
    match key:
        case "min_quality":
            # The metric stays, so that the best target by that metric is taken.
            quality = replace(budgets.quality, value=-1.0) if budgets.quality else None
            return replace(budgets, quality=quality, prefer=Prefer.QUALITY)
        case "max_size_mb":
            return replace(budgets, size=None, prefer=Prefer.SIZE)
        case "max_memory_mb":
            return replace(budgets, memory=None, prefer=Prefer.SIZE)
        case "max_latency":
            return replace(budgets, latency=None, prefer=Prefer.SPEED)
        case "min_throughput":
            return replace(budgets, throughput=None, prefer=Prefer.SPEED)
        case "depth":
            return replace(budgets, depth=None, prefer=Prefer.QUALITY)
        case "dim":
            return replace(budgets, dim=None, prefer=Prefer.QUALITY)
