"""Writing a bundle: a draft whose manifest is written once, and new figures for a bundle that exists."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from ese_deploy.bundle.card import CARD_FILE, model_card
from ese_deploy.bundle.links import is_snapshot
from ese_deploy.bundle.manifest import FileEntry, Manifest, TargetEntry, encode_manifest
from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle, open_bundle
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_together
from ese_deploy.system.locks import lock_folder

__all__ = ["BundleDraft", "describe_file", "rewrite_targets"]


@dataclass(frozen=True)
class BundleDraft:
    """A bundle in the making: files in a staging folder, the manifest in memory.

    Every file of the folder is written once and not read again by the export; :meth:`write_manifest` comes last.

    Attributes:
        folder: the staging folder.
        manifest: the manifest so far.
    """

    folder: Path
    manifest: Manifest

    @property
    def bundle(self) -> Bundle:
        """The draft as a bundle that an encoder can open; its hash is empty, because there is no manifest yet."""
        return Bundle(self.folder, self.manifest, "")

    def add_file(
        self,
        field: Literal["config", "golden", "profiles", "projection_file", "ranges", "tokenizer_config", "tokens"],
        name: str,
        data: bytes,
    ) -> "BundleDraft":
        """Write a file and list it in a field of the manifest."""
        (self.folder / name).write_bytes(data)
        return self.replace(**{field: describe_file(name, data)})

    def with_targets(self, measured: Mapping[str, TargetEntry]) -> "BundleDraft":
        """The draft with other entries for the targets of these names."""
        return self.replace(targets=[measured.get(entry.name, entry) for entry in self.manifest.targets])

    def replace(self, **fields: object) -> "BundleDraft":
        """The draft with other values in the manifest."""
        return replace(self, manifest=msgspec.structs.replace(self.manifest, **fields))

    def write_manifest(self, name: str) -> None:
        """Write the model card and the manifest.

        Args:
            name: the name that the folder gets, for the examples of the card.

        Raises:
            BundleError: the manifest contains a value that cannot be read again.
        """
        (self.folder / CARD_FILE).write_text(model_card(self.manifest, name), "utf-8")
        (self.folder / MANIFEST_FILE).write_bytes(encode_manifest(self.manifest))


def describe_file(name: str, data: bytes) -> FileEntry:
    """Name, size and hash of a file."""
    return FileEntry(file=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def rewrite_targets(measured: Bundle, change: Callable[[TargetEntry], TargetEntry]) -> Bundle:
    """Change the figures of targets in the manifest and in the model card of a bundle.

    The bundle is read again under a lock, because another process may have added targets or figures since it was
    measured. Manifest and card are replaced together: both or none. Measurements of the bundle stay valid.

    Args:
        measured: the bundle as it was measured; targets that were added since then are not changed.
        change: returns an entry with other figures.

    Returns:
        The bundle as it is now.

    Raises:
        InputError: the folder cannot be written, is in the Hugging Face cache, or contains another bundle now; it is
            unchanged.
        BundleError: the bundle was damaged in the meantime.
    """
    if is_snapshot(measured.path):
        raise InputError(
            f"{measured.path} is in the Hugging Face cache, which must not be changed. Copy the bundle with cp -rL."
        )
    with lock_folder(measured.path):
        current = open_bundle(measured.path)
        graphs = {(entry.name, entry.sha256) for entry in measured.manifest.targets}
        unchanged = graphs <= {(entry.name, entry.sha256) for entry in current.manifest.targets}
        if not unchanged or current.manifest.source.weights_sha256 != measured.manifest.source.weights_sha256:
            raise InputError(f"{measured.path} was replaced while it was measured. Measure it again.")
        targets = [
            change(entry) if (entry.name, entry.sha256) in graphs else entry for entry in current.manifest.targets
        ]
        manifest = msgspec.structs.replace(current.manifest, targets=targets)
        card = model_card(manifest, current.path.resolve().name).encode()
        write_together({current.path / CARD_FILE: card, current.path / MANIFEST_FILE: encode_manifest(manifest)})
        return open_bundle(current.path)
