"""Bundles whose files were changed and whose hashes fit: what a hostile author can make."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["forge"]


def forge(
    source: Path, out: Path, files: Mapping[str, bytes], change: Callable[[dict[str, Any]], object] | None = None
) -> Path:
    """Copy a bundle with other contents of some files, and their sizes and hashes in its manifest.

    Args:
        source: the bundle.
        out: the folder to make.
        files: contents by file name.
        change: changes the manifest afterwards.
    """
    shutil.copytree(source, out)
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    entries = [*manifest["weights"], *manifest["targets"], *(v for v in manifest.values() if isinstance(v, dict))]
    for name, data in files.items():
        (out / name).write_bytes(data)
        for entry in entries:
            if entry.get("file") == name:
                entry.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if change is not None:
        change(manifest)
    (out / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return out
