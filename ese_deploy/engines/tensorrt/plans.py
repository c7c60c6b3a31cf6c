"""Plans in the cache of this machine, and why none of them fits."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from ese_deploy.bundle.manifest import Parity
from ese_deploy.engines.base import EngineInput
from ese_deploy.engines.cuda import Gpu
from ese_deploy.engines.tensorrt.api import Api
from ese_deploy.engines.tensorrt.build import BuildSettings, Profile
from ese_deploy.system.cache import cache_folder
from ese_deploy.system.files import write_atomic

__all__ = [
    "ANY_AMPERE",
    "Plan",
    "PlanKey",
    "find_plan",
    "plan_key",
    "plans_folder",
    "read_timing",
    "save_parity",
    "save_plan",
]

ANY_AMPERE = "ampere+"


class PlanKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a plan depends on. A different value of any attribute needs another plan.

    Attributes:
        graph: :attr:`EngineInput.digest` of the graph and its weights.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        version: of TensorRT.
        architecture: such as ``sm_90``; ``ampere+`` for a plan that runs on several.
        settings: how it was built.
        profiles: shortest, longest, best and most rows of each profile.
    """

    graph: str
    flavour: str
    version: str
    architecture: str
    settings: dict[str, int | bool | list[int]]
    profiles: list[tuple[int, int, int, int]]

    @property
    def shapes(self) -> list[Profile]:
        """The profiles."""
        return [Profile(*one) for one in self.profiles]

    @property
    def stem(self) -> str:
        """The name of its files: a hash of the graph, and a hash of the whole key."""
        whole = hashlib.sha256(msgspec.json.encode(self)).hexdigest()
        return f"{self.graph[:16]}.{whole[:16]}"


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file beside a plan."""

    key: PlanKey
    sha256: str
    parity: Parity | None = None


@dataclass(frozen=True)
class Plan:
    """A compiled plan.

    Attributes:
        data: its bytes.
        key: what it was built from and for.
        parity: how it compares with PyTorch on the golden texts; None if that was not measured.
    """

    data: bytes
    key: PlanKey
    parity: Parity | None


def plans_folder() -> Path:
    """The folder of plans."""
    return cache_folder() / "plans"


def plan_key(api: Api, gpu: Gpu, source: EngineInput, settings: BuildSettings, profiles: list[Profile]) -> PlanKey:
    """The key of the plan that a graph needs on a GPU."""
    stated = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}
    return PlanKey(
        graph=source.digest,
        flavour=api.flavour,
        version=api.version,
        architecture=ANY_AMPERE if settings.hardware_compatible else gpu.architecture,
        settings=stated,
        profiles=[(one.shortest, one.longest, one.best_rows, one.most_rows) for one in profiles],
    )


def find_plan(key: PlanKey, any_settings: bool = False) -> tuple[Plan | None, str]:
    """Look a plan up.

    Args:
        key: the plan to find.
        any_settings: without a plan of this key, take the newest plan of the graph that runs here, whatever its
            settings.

    Returns:
        The plan, or None and the reason as a clause.
    """
    entries = _entries(key.graph)
    fitting = [entry for entry in entries if entry.key == key]
    if any_settings:
        fitting += [entry for entry in entries if _runs_here(entry.key, key)]
    for entry in fitting:
        path = plans_folder() / f"{entry.key.stem}.plan"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() == entry.sha256:
            return Plan(data, entry.key, entry.parity), ""
        return None, f"the plan {path} is damaged"
    if not entries:
        return None, "there is no plan of this graph yet"
    nearest = min((_differences(entry.key, key) for entry in entries), key=len)
    return None, f"the existing plan was built for {' and '.join(nearest)}"


def save_plan(key: PlanKey, data: bytes, timing: bytes) -> Plan:
    """Write a plan and the timing cache of its build.

    Raises:
        InputError: the cache cannot be written.
    """
    folder = plans_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomic(folder / f"{key.stem}.plan") as file:
        file.write(data)
    _write(folder / f"{key.stem}.json", _Entry(key, hashlib.sha256(data).hexdigest()))
    if timing:
        with write_atomic(_timing_path(key)) as file:
            file.write(timing)
    return Plan(data, key, None)


def save_parity(plan: Plan, parity: Parity) -> Plan:
    """Write beside a plan how it compares with PyTorch."""
    path = plans_folder() / f"{plan.key.stem}.json"
    _write(path, _Entry(plan.key, hashlib.sha256(plan.data).hexdigest(), parity))
    return Plan(plan.data, plan.key, parity)


def read_timing(key: PlanKey) -> bytes:
    """The timing cache of earlier builds on such a GPU; empty without one."""
    path = _timing_path(key)
    return path.read_bytes() if path.is_file() else b""


def _timing_path(key: PlanKey) -> Path:
    return plans_folder() / f"timing.{key.flavour}.{key.version}.{key.architecture}.cache"


def _entries(graph: str) -> list[_Entry]:
    """The plans of a graph, the newest first."""
    paths = sorted(plans_folder().glob(f"{graph[:16]}.*.json"), key=lambda path: -path.stat().st_mtime_ns)
    return [entry for path in paths if (entry := _read(path)) is not None and entry.key.graph == graph]


def _runs_here(existing: PlanKey, wanted: PlanKey) -> bool:
    same = (existing.flavour, existing.version) == (wanted.flavour, wanted.version)
    return same and existing.architecture in (wanted.architecture, ANY_AMPERE)


def _differences(existing: PlanKey, wanted: PlanKey) -> list[str]:
    """How another plan of the graph differs from the one to find."""
    found = []
    if (existing.flavour, existing.version) != (wanted.flavour, wanted.version):
        here = f"{wanted.flavour} {wanted.version}"
        found.append(f"{existing.flavour} {existing.version}, here is {here}")
    if existing.architecture != wanted.architecture:
        found.append(f"a GPU of {existing.architecture}, this one is {wanted.architecture}")
    if existing.settings != wanted.settings:
        names = [name for name in wanted.settings if existing.settings.get(name) != wanted.settings[name]]
        found.append(f"other settings ({', '.join(names)})")
    elif existing.profiles != wanted.profiles:
        found.append("other lengths")
    return found


def _read(path: Path) -> _Entry | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Entry)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: Path, entry: _Entry) -> None:
    with write_atomic(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(entry), indent=1) + b"\n")
