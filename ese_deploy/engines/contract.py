"""What an engine that compiles for shapes must know of the bundle whose graph it is given."""

import hashlib
import re
from pathlib import Path

from ese_deploy.bundle.manifest import Manifest, decode_manifest
from ese_deploy.errors import EngineError
from ese_deploy.system.files import sha256_file

__all__ = ["graph_digest", "manifest_in"]

_WEIGHTS = re.compile(rb"weights\.[a-z0-9-]+\.data")


def graph_digest(graph: bytes, folder: Path) -> str:
    """SHA-256 over a graph and the weights that it reads, by which compiled forms of it are kept.

    Two checkpoints of one architecture give the same graph: what differs are the weights.

    Args:
        graph: the ONNX model.
        folder: where its weights lie.
    """
    digest = hashlib.sha256(graph)
    for name in sorted(set(_WEIGHTS.findall(graph))):
        digest.update(sha256_file(folder / name.decode()).encode())
    return digest.hexdigest()


def manifest_in(folder: Path) -> Manifest:
    """The manifest of the bundle in a folder.

    Raises:
        EngineError: there is none.
        BundleError: it does not follow the schema.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise EngineError(f"{folder} has no manifest.json, which says how long the rows may be; give a bundle's folder")
    return decode_manifest(path.read_bytes(), str(path))
