"""What a budget profile means in a bundle: which target it takes, and why."""

import re
from dataclasses import dataclass, replace

import msgspec

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.reader import Bundle, read_profiles_file
from ese_deploy.choose.budgets import QualityBudget
from ese_deploy.choose.candidates import find_candidates
from ese_deploy.choose.choice import Budgets, Candidate, choose
from ese_deploy.choose.measurements import Measurements, load_measurements
from ese_deploy.choose.profiles import (
    PROFILES_FILE,
    Profile,
    Profiles,
    find_profile,
    package_profiles,
    parse_profiles,
    profile_budgets,
)
from ese_deploy.engines import DEFAULT_ENGINE
from ese_deploy.errors import InputError
from ese_deploy.target import Target

__all__ = ["Resolution", "Resolved", "profile_target", "profiles_of", "resolve_profile", "resolved_toml"]


@dataclass(frozen=True)
class Resolved:
    """The target that a profile means.

    Attributes:
        target: the target.
        why: the reason, in words.
        fell_back: whether something wanted could not be had.
        engine: the engine to run it on.
    """

    target: Target
    why: str
    fell_back: bool
    engine: str


@dataclass(frozen=True)
class Resolution:
    """What a profile means in a bundle.

    Attributes:
        target: the target's name, or None where nothing fits.
        why: the reason, in words; fallbacks included.
        fell_back: whether something wanted could not be had.
        engine: the engine to run the target on.
    """

    target: Target | None
    why: str
    fell_back: bool
    engine: str = DEFAULT_ENGINE


def profiles_of(bundle: Bundle) -> Profiles:
    """The profiles resolved into a bundle; the package's own for a bundle that was exported without.

    Raises:
        BundleError: the file is not the one that was exported.
        InputError: it cannot be read.
    """
    data = read_profiles_file(bundle)
    return package_profiles() if data is None else parse_profiles(data, str(bundle.path / PROFILES_FILE))


def profile_target(bundle: Bundle, name: str, profiles: Profiles | None = None) -> Resolved:
    """The target that a profile means in a bundle on this machine.

    What was resolved at export stands, but for profiles that bound time or memory: those are resolved here, with what
    this machine measured.

    Args:
        bundle: the bundle.
        name: the profile.
        profiles: profiles to look in, instead of the bundle's.

    Raises:
        InputError: there is no such profile, or no target fits; the message says why and what to do.
    """
    profile = find_profile(profiles_of(bundle) if profiles is None else profiles, name, f" in {bundle.path}")
    if profile.resolved:
        target = Target.parse(profile.resolved)
        return Resolved(target, profile.why or "", profile.fell_back, _wanted_engine(profile, bundle.manifest, target))
    found = resolve_profile(name, profile, bundle.manifest, load_measurements(bundle))
    if found.target is None:
        raise InputError(f"{found.why}; see: ese-deploy choose {bundle.path} --profile {name}")
    return Resolved(found.target, found.why, found.fell_back, found.engine)


def resolve_profile(name: str, profile: Profile, manifest: Manifest, held: Measurements | None = None) -> Resolution:
    """Find the target that a profile means.

    Args:
        name: the profile's name, for the reason.
        profile: the profile.
        manifest: of the bundle.
        held: what the machine measured of the bundle, for budgets on time and memory.
    """
    if profile.target is not None:
        target = Target.parse(profile.target)
        if any(entry.target == target for entry in manifest.targets):
            engine = _wanted_engine(profile, manifest, target)
            return Resolution(target, f"profile {name} names {target}", False, engine)
        return Resolution(None, f"profile {name} names {target}, which the bundle does not hold", True)
    budgets = profile_budgets(profile, manifest.depth, manifest.width)
    try:
        candidates = find_candidates(manifest, budgets, held)
    except InputError as error:
        return Resolution(None, f"profile {name}: {error}", True)
    unmeasured = [kind for kind in budgets.needs if all(getattr(one, kind) is None for one in candidates)]
    if unmeasured:
        return Resolution(
            None, f"profile {name} bounds {' and '.join(unmeasured)}, which this machine has not measured", True
        )
    return _resolve(name, profile, budgets, candidates)


def resolved_toml(profiles: Profiles, manifest: Manifest) -> bytes:
    """The bundle's ``profiles.toml``: each profile with the target that it means there, and why."""
    lines = ["# Budget profiles, resolved at export. 'resolved' is the target that the runtime loads.", ""]
    for name, profile in profiles.items():
        found = resolve_profile(name, profile, manifest)
        stated = msgspec.structs.replace(
            profile, resolved=str(found.target or ""), why=found.why, fell_back=found.fell_back
        )
        lines.append(f"[{_key(name)}]")
        lines += [f"{key} = {_toml(value)}" for key, value in msgspec.to_builtins(stated).items()]
        lines.append("")
    return "\n".join(lines).encode()


def _resolve(name: str, profile: Profile, budgets: Budgets, candidates: list[Candidate]) -> Resolution:
    """Try dtypes in the order wanted; where none fits, let go of what may be relaxed, one after the other."""
    notes = _missing_notes(budgets, candidates)
    relaxed = budgets
    for given_up in (None, *profile.may_relax):
        if given_up is not None:
            relaxed, note = _relax(relaxed, budgets, given_up)
            notes.append(note)
        for dtype in budgets.dtypes or (None,):
            wanted = replace(relaxed, dtypes=(dtype,)) if dtype else relaxed
            best = choose(candidates, wanted).best
            if best is not None:
                why = f"profile {name}: {best.name} on {best.engine} is {_aim(wanted)}"
                notes += [f"no {other} target fits" for other in _before(dtype, budgets, candidates)]
                return Resolution(best.entry.target, "; ".join([why, *notes]), bool(notes), best.engine)
    fixes = "; ".join(
        f"{outcome.candidate.name} would fit with another {' and '.join(outcome.budgets)}"
        for outcome in choose(candidates, budgets).relax[:1]
    )
    return Resolution(None, "; ".join(filter(None, [f"profile {name}: no target fits", fixes, *notes])), True)


def _wanted_engine(profile: Profile, manifest: Manifest, target: Target) -> str:
    """The first engine that a profile names and a target runs on."""
    wanted = profile_budgets(profile, manifest.depth, manifest.width).engines
    able = next((entry.engines for entry in manifest.targets if entry.target == target), [])
    return next((name for name in wanted if name in able), DEFAULT_ENGINE)


def _before(dtype: str | None, budgets: Budgets, candidates: list[Candidate]) -> list[str]:
    """Dtypes that were wanted more and are held."""
    held = {candidate.entry.dtype for candidate in candidates}
    wanted = budgets.dtypes[: budgets.dtypes.index(dtype)] if dtype else ()
    return [other for other in wanted if other in held]


def _missing_notes(budgets: Budgets, candidates: list[Candidate]) -> list[str]:
    engines, dtypes = {one.engine for one in candidates}, {one.entry.dtype for one in candidates}
    notes = []
    for what, wanted, held in (("engine", budgets.engines, engines), ("dtype", budgets.dtypes, dtypes)):
        first = [name for name in wanted if name in held][:1]
        lacking = wanted[: wanted.index(first[0])] if first else wanted
        if lacking:
            instead = f", {first[0]} stands in" if first else ""
            notes.append(f"no target has the {what} {' or '.join(lacking)}{instead}")
    return notes


def _relax(relaxed: Budgets, budgets: Budgets, key: str) -> tuple[Budgets, str]:
    """Drop a budget and aim at coming as near to it as can be."""
    note = f"nothing keeps {key}, it gives way"
    if key == "min_quality":
        return replace(relaxed, quality=_no_floor(budgets.quality), prefer="quality"), note
    if key == "max_size_mb":
        return replace(relaxed, size=None, prefer="size"), note
    if key == "max_memory_mb":
        return replace(relaxed, memory=None, prefer="size"), note
    if key == "max_latency":
        return replace(relaxed, latency=None, prefer="speed"), note
    if key == "min_throughput":
        return replace(relaxed, throughput=None, prefer="speed"), note
    if key == "depth":
        return replace(relaxed, depth=None, prefer="quality"), note
    return replace(relaxed, dim=None, prefer="quality"), note


def _no_floor(quality: QualityBudget | None) -> QualityBudget | None:
    return replace(quality, value=-1.0) if quality else None


def _aim(budgets: Budgets) -> str:
    return {"quality": "the best", "speed": "the fastest", "size": "the smallest"}[budgets.aim] + " within the budget"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    """A value as TOML; JSON's strings, numbers and lists are TOML's too, but for the character DEL."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
