"""Budget profiles: names for a target or for budgets, in TOML."""

import re
import tomllib
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ese_deploy.bundle.reader import PROFILES_FILE, Bundle, read_profiles_file
from ese_deploy.choose.budgets import QualityBudget, parse_latency, parse_quality, parse_throughput
from ese_deploy.choose.choice import Budgets, Prefer
from ese_deploy.errors import InputError
from ese_deploy.target import DTYPES, Target

__all__ = [
    "Profile",
    "Profiles",
    "Relaxable",
    "bundle_profiles",
    "find_profile",
    "package_profiles",
    "parse_profiles",
    "profile_budgets",
    "profiles_file_for_bundle",
    "read_profiles",
]

Positive = Annotated[int, Meta(ge=1)]
Size = Positive | Literal["full"]
Names = str | list[str]
Megabytes = Annotated[float, Meta(gt=0, le=1e12)]
Relaxable = Literal["max_size_mb", "max_memory_mb", "max_latency", "min_throughput", "min_quality", "depth", "dim"]


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of a profiles file.

    Attributes:
        description: what it is for.
        target: a target by name, such as ``3x128``; no other key applies then.
        depth: the depth, or ``full``.
        dim: the dim, or ``full``.
        dtype: a dtype, or several in order of preference.
        engine: an engine, or several in order of preference.
        max_size_mb: most MB (10^6 bytes) of graph, weights read and tokenizer.
        max_memory_mb: most MB that a process takes.
        max_latency: such as ``5ms``, see :func:`ese_deploy.choose.budgets.parse_latency`.
        min_throughput: such as ``200/s``.
        min_quality: a share of the full model's agreement, or text as for ``--min-quality``.
        prefer: ``quality``, ``speed`` or ``size``.
        allow_untrained: whether untrained exits and targets of low agreement or with a failed check may be taken.
        may_relax: budgets that are dropped, in this order, where no target fits.
        resolved: in bundles of earlier versions; not read.
        fell_back: likewise.
        why: likewise.
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
    allow_untrained: bool = False
    may_relax: list[Relaxable] = []
    resolved: str | None = None
    fell_back: bool = False
    why: str | None = None


Profiles = dict[str, Profile]


def package_profiles() -> Profiles:
    """The profiles that come with the package: edge, balanced, server, full."""
    source = files("ese_deploy.choose").joinpath(PROFILES_FILE)
    return parse_profiles(source.read_bytes(), PROFILES_FILE)


def read_profiles(path: str | Path | None = None) -> Profiles:
    """The package's profiles, overridden by name by those of a user's TOML file.

    Raises:
        InputError: the file is missing, is not TOML, or a value is not allowed; the message names the line.
    """
    return {**package_profiles(), **_read_own(path)}


def bundle_profiles(bundle: Bundle, own: str | Path | Mapping[str, Profile] | None = None) -> Profiles:
    """The package's profiles, overridden by name by those that a bundle carries, and those by the user's own.

    Raises:
        BundleError: the bundle's file is not the one that was exported.
        InputError: a file cannot be read.
    """
    data = read_profiles_file(bundle)
    carried = {} if data is None else parse_profiles(data, str(bundle.path / PROFILES_FILE))
    return {**package_profiles(), **carried, **(own if isinstance(own, Mapping) else _read_own(own))}


def profiles_file_for_bundle(path: str | Path) -> bytes:
    """Read a user's TOML file, check it, and return its contents, which a bundle can carry.

    Raises:
        InputError: as for :func:`read_profiles`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}") from error
    parse_profiles(data, str(path))
    return data


def _read_own(path: str | Path | None) -> Profiles:
    return {} if path is None else parse_profiles(profiles_file_for_bundle(path), str(path))


def parse_profiles(data: bytes, where: str) -> Profiles:
    """Read and check profiles.

    Args:
        data: the TOML text.
        where: the file, for messages.

    Raises:
        InputError: as for :func:`read_profiles`.
    """
    try:
        text = data.decode("utf-8-sig")
        tables = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
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


def find_profile(profiles: Mapping[str, Profile], name: str) -> Profile:
    """Look a profile up.

    Raises:
        InputError: there is no such profile; the message lists what there is.
    """
    if name not in profiles:
        raise InputError(f"Unknown profile '{name}'. Choose one of: {', '.join(profiles)}.")
    return profiles[name]


def profile_budgets(profile: Profile, depth: int, width: int) -> Budgets:
    """The budgets that a profile states for a model of ``depth`` layers and ``width`` dimensions."""
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
        allow_untrained=profile.allow_untrained,
    )


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
        raise InputError(f"$.dtype: Unknown dtype '{unknown[0]}'. Choose one of: {', '.join(DTYPES)}")


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
    return f". Choose one of: {', '.join(fields)}"
