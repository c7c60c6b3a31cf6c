"""Unpack what prepare.sh made, as far as this machine lacks it. Needs only the standard library."""

import importlib.util
import json
import platform
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

__all__ = ["COMMON", "DESCRIPTION", "TRAINING", "unpack"]

DESCRIPTION = "kit.json"
COMMON, TRAINING = "common", "training"
"""Folders of packages: for all steps, and for the step that trains."""


def unpack(kit: Path, out: Path, *, gpu: bool) -> list[str]:
    """Unpack packages into folders for ``PYTHONPATH``.

    Args:
        kit: the folder that prepare.sh made.
        out: where the folders :data:`COMMON` and :data:`TRAINING` go.
        gpu: whether onnxruntime-gpu is wanted instead of the onnxruntime that is installed.

    Returns:
        For each part of the kit a sentence that says what was done with it.
    """
    description = kit / DESCRIPTION
    if not description.is_file():
        return [f"there is no kit in {kit}; run benchmarks/gpu/prepare.sh first, or use what is installed"]
    parts = json.loads(description.read_text())["parts"]
    return [_unpack_part(kit, out / part["folder"], part, gpu) for part in parts]


def _unpack_part(kit: Path, out: Path, part: dict[str, Any], gpu: bool) -> str:
    name = f"{part['package']} {part['version']}"
    installed = importlib.util.find_spec(part["module"]) is not None
    wanted = gpu or not installed if part["package"] == "onnxruntime-gpu" else not installed
    if not wanted:
        return f"{name}: not unpacked, since {part['module']} is installed"
    if part["python"] not in ("any", _python()):
        return f"{name}: not unpacked, since it is for Python {part['python']} and this is {_python()}"
    if part["machine"] not in ("any", platform.machine()):
        return f"{name}: not unpacked, since it is for {part['machine']} and this is {platform.machine()}"
    path = kit / part["file"]
    if not path.is_file() or path.stat().st_size != part["bytes"]:
        return f"{name}: not unpacked, since {path} is not the file that prepare.sh made"
    out.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(out)
    else:
        with tarfile.open(path) as archive:
            archive.extractall(out, filter="data")
    return f"{name}: unpacked"


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
