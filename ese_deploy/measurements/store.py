"""Measurements of bundles, stored in the cache by the bundle's content and the machine."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError
from ese_deploy.measurements.cases import Kind
from ese_deploy.system.cache import CACHE_VARIABLE, cache_folder, locked_cache_folder
from ese_deploy.system.files import explain_os_error, write_atomic
from ese_deploy.system.machine import Machine, describe_machine

__all__ = [
    "CACHE_VARIABLE",
    "Measurement",
    "Measurements",
    "bundle_key",
    "cache_folder",
    "check_owner",
    "clear_measurements",
    "import_measurements",
    "list_measurements",
    "load_measurements",
    "merge_measurements",
    "read_measurements",
    "store_measurements",
    "write_measurements",
]

_SCHEMA_VERSION = 1


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measurement of one target.

    Attributes:
        target: the target's name in the bundle.
        engine: the engine that ran it.
        versions: versions of the engine's libraries.
        kind: what was measured.
        tokens: tokens of each text.
        threads: threads that computed.
        runs: number of timings.
        values: ``latency``: p50, p95, p99 in seconds; ``throughput``: texts_per_second; ``memory``: see
            :class:`ese_deploy.bench.memory.MemoryUse`.
        busy_cores: processors that others took from the measurement; 0 on a quiet machine.
    """

    target: str
    engine: str
    versions: dict[str, str]
    kind: Kind
    tokens: int
    threads: int
    runs: int
    values: dict[str, float]
    busy_cores: float = 0.0

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What a newer measurement replaces."""
        return (self.target, self.engine, self.kind, self.tokens, self.threads)


class Measurements(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All measurements of one bundle on one machine.

    Attributes:
        schema_version: 1.
        bundle: hash of what runs in the bundle, see :func:`bundle_key`.
        name: the name of the bundle's folder.
        machine: the machine.
        measurements: sorted by target, engine, kind and case.
    """

    schema_version: int
    bundle: str
    name: str
    machine: Machine
    measurements: list[Measurement]


def bundle_key(bundle: Bundle) -> str:
    """Hash over the hashes of graphs, weights and tokenizer: everything that speed and memory depend on.

    Unlike the hash of the bundle, it does not change when quality figures are written into the manifest.
    """
    manifest = bundle.manifest
    files = [*manifest.targets, *manifest.weights, manifest.tokenizer]
    lines = sorted(f"{entry.file} {entry.sha256}" for entry in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def load_measurements(bundle: Bundle, machine: Machine | None = None) -> Measurements:
    """What this machine measured of a bundle; without any, or a cache that can be read, an empty list.

    Raises:
        InputError: the file in the cache is broken.
    """
    machine = machine or describe_machine()
    key = bundle_key(bundle)
    try:
        path = _path(key, machine)
        data = path.read_bytes()
    except (OSError, InputError):
        return Measurements(_SCHEMA_VERSION, key, bundle.path.resolve().name, machine, [])
    return _decode(data, path)


def store_measurements(bundle: Bundle, fresh: Iterable[Measurement], machine: Machine | None = None) -> Measurements:
    """Add to the cache, replacing older measurements of the same target, engine and case.

    Raises:
        InputError: the cache cannot be written, or the file in it is broken.
    """
    with locked_cache_folder(_folder()):
        held = merge_measurements(load_measurements(bundle, machine), fresh)
        write_measurements(_path(held.bundle, held.machine), held)
    return held


def merge_measurements(held: Measurements, fresh: Iterable[Measurement]) -> Measurements:
    """A copy with ``fresh`` added, replacing older ones of the same key."""
    merged = {one.key: one for one in (*held.measurements, *fresh)}
    return msgspec.structs.replace(held, measurements=[merged[key] for key in sorted(merged)])


def read_measurements(path: Path) -> Measurements:
    """Read a file that :func:`write_measurements` wrote.

    Raises:
        InputError: it is missing, broken or of another schema version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return _decode(data, path)


def write_measurements(path: Path, held: Measurements) -> None:
    """Write measurements as JSON."""
    with write_atomic(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(held), indent=1) + b"\n")


def check_owner(held: Measurements, bundle: Bundle, where: Path, machine: Machine | None = None) -> None:
    """Check that measurements were made of this bundle and, if one is given, on this machine.

    Raises:
        InputError: they belong to another bundle or another machine.
    """
    if held.bundle != bundle_key(bundle):
        raise InputError(
            f"{where} was measured of another bundle ({held.name}, {held.bundle[:12]}), not of {bundle.path} "
            f"({bundle_key(bundle)[:12]}); measure this one"
        )
    if machine is not None and held.machine.key != machine.key:
        raise InputError(
            f"{where} was measured on another machine ({held.machine}), this is {machine}; to choose for that "
            "machine hand the file to: ese-deploy choose BUNDLE --measurements FILE"
        )


def import_measurements(held: Measurements) -> Measurements:
    """Add measurements that were exported elsewhere, replacing older ones of the same key."""
    path = _path(held.bundle, held.machine)
    with locked_cache_folder(_folder()):
        present = read_measurements(path) if path.is_file() else msgspec.structs.replace(held, measurements=[])
        merged = merge_measurements(present, held.measurements)
        write_measurements(path, merged)
    return merged


def list_measurements() -> list[Measurements]:
    """All measurements in the cache, sorted by bundle and machine.

    Raises:
        InputError: a file in the cache is broken.
    """
    return [read_measurements(path) for path in sorted(_folder().glob("*.json"))]


def clear_measurements(bundle: Bundle | None = None) -> int:
    """Delete the measurements of a bundle, or all; returns the number of files deleted."""
    pattern = f"{bundle_key(bundle)[:16]}-*.json" if bundle else "*.json"
    paths = sorted(_folder().glob(pattern))
    for path in paths:
        with explain_os_error(path):
            path.unlink()
    return len(paths)


def _decode(data: bytes, path: Path) -> Measurements:
    try:
        found = msgspec.json.decode(data, type=Measurements)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} holds no measurements: {error}; delete it or export it again") from None
    if found.schema_version != _SCHEMA_VERSION:
        raise InputError(f"{path} has schema_version {found.schema_version}, this ese-deploy reads {_SCHEMA_VERSION}")
    return found


def _folder() -> Path:
    return cache_folder() / "measurements"


def _path(bundle: str, machine: Machine) -> Path:
    return _folder() / f"{bundle[:16]}-{machine.key}.json"
