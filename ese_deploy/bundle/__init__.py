"""The bundle: manifest, reader, writer, and the files beside the graphs."""

from ese_deploy.bundle.manifest import Manifest, TargetEntry
from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle, choose_entry, choose_pair, is_bundle, open_bundle

__all__ = [
    "MANIFEST_FILE",
    "Bundle",
    "Manifest",
    "TargetEntry",
    "choose_entry",
    "choose_pair",
    "is_bundle",
    "open_bundle",
]
