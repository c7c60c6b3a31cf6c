"""What an engine that compiles for shapes must know of the bundle whose graph it is given."""

from pathlib import Path

from ese_deploy.errors import EngineError
from ese_deploy.manifest import Manifest, decode_manifest

__all__ = ["manifest_in"]


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
