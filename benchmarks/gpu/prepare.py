"""Make the kit for a GPU machine without network: bash benchmarks/gpu/prepare.sh."""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.pack_onnxruntime import PYTHON, VERSION, pack
from benchmarks.gpu.unpack import COMMON, DESCRIPTION, TRAINING

__all__ = ["LIMIT_BYTES", "TRAINING_WHEELS", "WHEELS", "main"]

LIMIT_BYTES = 60 << 20
# Package and module. torch, transformers and sentence-transformers bring all other packages that the steps import.
WHEELS = {"msgspec": "msgspec", "platformdirs": "platformdirs", "filelock": "filelock", "tomli-w": "tomli_w"}
# sentence-transformers imports datasets wherever it finds it, so only the step that needs it may.
TRAINING_WHEELS = {"datasets": "datasets", "dill": "dill", "multiprocess": "multiprocess"}
_ARCHIVE = "onnxruntime-gpu.tar.xz"


def main() -> None:
    """Make the kit, describe it in kit.json, and check its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", type=int, default=90)
    options = parser.parse_args()
    folder: Path = options.folder
    if folder.exists() and not (folder / DESCRIPTION).is_file() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty and holds no kit; name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pack(folder / _ARCHIVE, options.arch)
    runtime = {"package": "onnxruntime-gpu", "module": "onnxruntime", "version": VERSION, "folder": COMMON}
    parts = [_part(folder / _ARCHIVE, runtime, PYTHON, "x86_64", f"sm_{options.arch}")]
    parts += [_wheel(folder, package, module, COMMON) for package, module in WHEELS.items()]
    parts += [_wheel(folder, package, module, TRAINING) for package, module in TRAINING_WHEELS.items()]
    size = sum(part["bytes"] for part in parts)
    description = {"bytes": size, "gpu": f"sm_{options.arch}", "cuda": "13", "parts": parts}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
    for part in parts:
        print(f"{part['bytes'] / 2**20:6.1f} MiB  {part['package']} {part['version']}")
    print(f"{size / 2**20:6.1f} MiB  in {folder}")
    if size > LIMIT_BYTES:
        sys.exit(f"the kit takes {size / 2**20:.1f} MiB; at most {LIMIT_BYTES >> 20} are allowed")


def _wheel(folder: Path, package: str, module: str, where: str) -> dict[str, Any]:
    before = set(folder.iterdir())
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
    platforms = ["--platform=manylinux_2_28_x86_64", "--platform=manylinux_2_17_x86_64"]
    subprocess.run([*pip, f"--python-version={PYTHON}", "--implementation=cp", *platforms, package], check=True)
    (path,) = set(folder.iterdir()) - before
    version, tag, machine = (path.stem.split("-")[index] for index in (1, 2, 4))
    python = "any" if "py3" in tag.split(".") else PYTHON
    described = {"package": package, "module": module, "version": version, "folder": where}
    return _part(path, described, python, "any" if machine == "any" else "x86_64")


def _part(path: Path, described: dict[str, str], python: str, machine: str, gpu: str = "any") -> dict[str, Any]:
    content = path.read_bytes()
    where = {"python": python, "machine": machine, "gpu": gpu}
    proof = {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**described, **where, **proof}


if __name__ == "__main__":
    main()
