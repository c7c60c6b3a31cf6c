"""A description of the machine, which is stored with each measurement."""

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

import msgspec

__all__ = ["Machine", "describe_machine", "library_versions"]

_LIBRARIES = (
    "ese-deploy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tokenizers",
    "numpy",
    "torch",
    "transformers",
)


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of machine. Two machines with equal attributes count as one.

    Attributes:
        cpu: the processor's name.
        cores: logical processors of the machine; a process may have fewer.
        memory_bytes: main memory; 0 if the system does not report it.
        architecture: such as ``x86_64``.
        system: such as ``Linux``.
    """

    cpu: str
    cores: int
    memory_bytes: int
    architecture: str
    system: str

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB, {self.system} {self.architecture}"

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that identify the machine in the cache."""
        # Without the memory: that of a virtual machine differs by a few MB at each start.
        kept = f"{self.cpu}|{self.cores}|{self.architecture}|{self.system}"
        return hashlib.sha256(kept.encode()).hexdigest()[:12]


def describe_machine(root: Path = Path("/")) -> Machine:
    """Describe this machine.

    Args:
        root: the folder that contains ``proc``.
    """
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return Machine(
        cpu=_cpu_name(root) or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_bytes=pages,
        architecture=platform.machine(),
        system=platform.system(),
    )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that a measurement may depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name(root: Path) -> str:
    try:
        lines = (root / "proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    return names.get("model name") or names.get("Model") or names.get("Hardware") or ""
