"""Snapshots of the Hugging Face cache, as huggingface_hub writes them."""

import hashlib
import os
import shutil
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_snapshot(bundle: Path, cache: Path, name: str = "models--me--mini") -> Path:
    """Copy the files of a bundle into ``blobs``, and link them from a snapshot."""
    repository = cache / name
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in bundle.iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot
