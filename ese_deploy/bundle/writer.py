"""Writing what was measured into a bundle that is there: manifest and model card, and no other file."""

from collections.abc import Callable

import msgspec

from ese_deploy.bundle.card import CARD_FILE, model_card
from ese_deploy.bundle.manifest import TargetEntry, encode_manifest
from ese_deploy.bundle.reader import MANIFEST_FILE, Bundle, open_bundle
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.system.locks import lock_folder

__all__ = ["rewrite_targets"]


def rewrite_targets(measured: Bundle, change: Callable[[TargetEntry], TargetEntry]) -> Bundle:
    """Give the targets of a bundle other figures.

    The bundle is read again, since measuring takes long and another process may have added targets or figures by then;
    who else writes into it waits. The manifest is replaced in one step. The bundle's own hash changes with it, while
    what was measured of its speed stays valid.

    Args:
        measured: the bundle as it was when it was measured; targets that were added since are left as they are.
        change: from an entry to the same one with other figures.

    Returns:
        The bundle as it is now.

    Raises:
        InputError: the folder cannot be written, or another bundle lies there now; it is as it was.
        BundleError: it was damaged meanwhile.
    """
    with lock_folder(measured.path):
        held = open_bundle(measured.path)
        graphs = {(entry.name, entry.sha256) for entry in measured.manifest.targets}
        still = graphs <= {(entry.name, entry.sha256) for entry in held.manifest.targets}
        if not still or held.manifest.source.weights_sha256 != measured.manifest.source.weights_sha256:
            raise InputError(f"{measured.path} was replaced while it was measured; measure it again")
        targets = [change(entry) if (entry.name, entry.sha256) in graphs else entry for entry in held.manifest.targets]
        manifest = msgspec.structs.replace(held.manifest, targets=targets)
        with write_atomic(held.path / MANIFEST_FILE) as file:
            file.write(encode_manifest(manifest))
        with write_atomic(held.path / CARD_FILE) as file:
            file.write(model_card(manifest, held.path.resolve().name).encode())
        return open_bundle(held.path)
