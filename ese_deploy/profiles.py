"""Budget profiles: a name for a target or for a budget, in TOML."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ese_deploy.budgets import QualityBudget, parse_latency, parse_quality, parse_throughput
from ese_deploy.bundle import Bundle, read_profiles_file
from ese_deploy.candidates import find_candidates
from ese_deploy.choice import Budgets, Candidate, Prefer, choose
from ese_deploy.errors import InputError
from ese_deploy.manifest import Manifest
from ese_deploy.measurements import Measurements, load_measurements
from ese_deploy.target import DTYPES, Target

__all__ = [
    "PROFILES_FILE",
    "Profile",
    "Resolution",
    "find_profile",
    "package_profiles",
    "parse_profiles",
    "profile_budgets",
    "profile_target",
    "profiles_of",
    "read_profiles",
    "resolve_profile",
    "resolved_toml",
]

PROFILES_FILE = "profiles.toml"

Positive = Annotated[int, Meta(ge=1)]
Size = Positive | Literal["full"]
Names = str | list[str]
Megabytes = Annotated[float, Meta(gt=0)]
Relaxed = Literal["max_size_mb", "max_memory_mb", "max_latency", "min_throughput", "min_quality", "depth", "dim"]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of a profiles file.

    Attributes:
        description: what it is for.
        target: a target by name, such as ``3x128``; then nothing else decides.
        depth: the depth, or ``full``.
        dim: the dim, or ``full``.
        dtype: a dtype, or several, the most wanted first.
        engine: an engine, or several, the most wanted first.
        max_size_mb: most MB (10^6 bytes) of graph, weights read and tokenizer.
        max_memory_mb: most MB added to the process.
        max_latency: such as ``5ms``, see :func:`ese_deploy.budgets.parse_latency`.
        min_throughput: such as ``200/s``.
        min_quality: a share of the full model's agreement, or text as for ``--min-quality``.
        prefer: ``quality``, ``speed`` or ``size``.
        may_relax: budgets that give way, in this order, where nothing fits.
        resolved: written at export: the target that the profile means in the bundle, empty where none fits.
        fell_back: written at export: whether something wanted could not be had.
        why: written at export: the reason.
    """

    description: str = ""
    target: str | None = None
    depth: Size | None = None
    dim: Size | None = None
    dtype: Names = ()  # type: ignore[assignment]
    engine: Names = ()  # type: ignore[assignment]
    max_size_mb: Megabytes | None = None
    max_memory_mb: Megabytes | None = None
    max_latency: str | None = None
    min_throughput: str | None = None
    min_quality: float | str | None = None
    prefer: Prefer | None = None
    may_relax: list[Relaxed] = []
    resolved: str | None = None
    fell_back: bool = False
    why: str | None = None


Profiles = dict[str, Profile]


@dataclass(frozen=True)
class Resolved:
    """The target that a profile means.

    Attributes:
        target: the target.
        why: the reason, in words.
        fell_back: whether something wanted could not be had.
    """

    target: Target
    why: str
    fell_back: bool


@dataclass(frozen=True)
class Resolution:
    """What a profile means in a bundle.

    Attributes:
        target: the target's name, or None where nothing fits.
        why: the reason, in words; fallbacks included.
        fell_back: whether something wanted could not be had.
    """

    target: Target | None
    why: str
    fell_back: bool


def package_profiles() -> Profiles:
    """The profiles that come with the package: edge, balanced, server, full."""
    source = files("ese_deploy").joinpath(PROFILES_FILE)
    return parse_profiles(source.read_bytes(), PROFILES_FILE)


def read_profiles(path: Path | None) -> Profiles:
    """The package's profiles, overridden by name by those of a user's file.

    Raises:
        InputError: the file is missing, is no TOML, or a value is not allowed; the message names the line.
    """
    profiles = package_profiles()
    if path is None:
        return profiles
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return {**profiles, **parse_profiles(data, str(path))}


def parse_profiles(data: bytes, where: str) -> Profiles:
    """Read and check profiles.

    Args:
        data: the TOML text.
        where: the file, for messages.

    Raises:
        InputError: as for :func:`read_profiles`.
    """
    try:
        text = data.decode("utf-8")
        tables = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{where} is not TOML: {error}") from None
    profiles = {}
    for name, table in tables.items():
        try:
            profiles[name] = msgspec.convert(table, Profile)
            _check(profiles[name])
        except (msgspec.ValidationError, InputError) as error:
            key = _named_key(str(error), table)
            line = _line_of(text, name, key)
            raise InputError(f"{where} line {line}, profile '{name}': {error}{_allowed(str(error))}") from None
    return profiles


def find_profile(profiles: Profiles, name: str, where: str = "") -> Profile:
    """Look a profile up.

    Raises:
        InputError: there is no such profile; the message lists what there is.
    """
    if name not in profiles:
        raise InputError(f"there is no profile '{name}'{where}; there is {', '.join(profiles) or 'none'}")
    return profiles[name]


def profile_budgets(profile: Profile, depth: int, width: int) -> Budgets:
    """The budgets that a profile states for a model of ``depth`` blocks and ``width`` dimensions."""
    quality = profile.min_quality
    return Budgets(
        latency=parse_latency(profile.max_latency) if profile.max_latency else None,
        throughput=parse_throughput(profile.min_throughput) if profile.min_throughput else None,
        size=None if profile.max_size_mb is None else round(profile.max_size_mb * 1e6),
        memory=None if profile.max_memory_mb is None else round(profile.max_memory_mb * 1e6),
        quality=_quality(quality) if quality is not None else None,
        engines=_names(profile.engine),
        dtypes=_names(profile.dtype),
        depth=depth if profile.depth == "full" else profile.depth,
        dim=width if profile.dim == "full" else profile.dim,
        prefer=profile.prefer,
    )


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
        return Resolved(Target.parse(profile.resolved), profile.why or "", profile.fell_back)
    found = resolve_profile(name, profile, bundle.manifest, load_measurements(bundle))
    if found.target is None:
        raise InputError(f"{found.why}; see: ese-deploy choose {bundle.path} --profile {name}")
    return Resolved(found.target, found.why, found.fell_back)


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
            return Resolution(target, f"profile {name} names {target}", False)
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
                return Resolution(best.entry.target, "; ".join([why, *notes]), bool(notes))
    fixes = "; ".join(
        f"{outcome.candidate.name} would fit with another {' and '.join(outcome.budgets)}"
        for outcome in choose(candidates, budgets).relax[:1]
    )
    return Resolution(None, "; ".join(filter(None, [f"profile {name}: no target fits", fixes, *notes])), True)


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


def _check(profile: Profile) -> None:
    """Values that the types do not check; each message begins with the key."""
    parsers: list[tuple[str, Callable[[str], object], float | str | None]] = [
        ("max_latency", parse_latency, profile.max_latency),
        ("min_throughput", parse_throughput, profile.min_throughput),
        ("min_quality", parse_quality, profile.min_quality),
        ("target", Target.parse, profile.target),
    ]
    for key, parse, value in parsers:
        if value is not None:
            try:
                parse(str(value))
            except InputError as error:
                raise InputError(f"$.{key}: {error}") from None
    unknown = [dtype for dtype in _names(profile.dtype) if dtype not in DTYPES]
    if unknown:
        raise InputError(f"$.dtype: '{unknown[0]}' is none of {', '.join(DTYPES)}")


def _quality(value: object) -> QualityBudget:
    return parse_quality(str(value))


def _names(value: Names) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _named_key(message: str, table: object) -> str:
    """The key that a message is about, which stands in it as ``$.key`` or as an unknown field."""
    match = re.search(r"\$\.(\w+)", message) or re.search(r"unknown field `(.+?)`", message)
    return match[1] if match else ""


def _line_of(text: str, name: str, key: str) -> int:
    """The line of a key in a table, or the table's own where the key is not found."""
    inside, header = False, 1
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("["):
            inside = re.sub(r"[\[\]\"'\s]|#.*", "", stripped).split(".")[0] == name
            header = number if inside else header
        elif re.match(rf"[\"']?{re.escape(name)}[\"']?\s*[.=]", stripped) and not inside:
            header = number
        elif inside and key and re.match(rf"[\"']?{re.escape(key)}[\"']?\s*=", stripped):
            return number
    return header


def _allowed(message: str) -> str:
    if "unknown field" not in message:
        return ""
    fields = [field for field in Profile.__struct_fields__ if field not in ("resolved", "fell_back", "why")]
    return f"; known are {', '.join(fields)}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    """A value as TOML; JSON's strings, numbers and lists are TOML's too, but for the character DEL."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
