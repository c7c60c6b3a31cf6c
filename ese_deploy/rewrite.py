"""Writing what was measured into a bundle that is there: manifest and model card, and no other file."""

import msgspec

from ese_deploy.bundle import MANIFEST_FILE, Bundle, open_bundle
from ese_deploy.card import CARD_FILE, model_card
from ese_deploy.files import write_atomic
from ese_deploy.manifest import TargetEntry, encode_manifest

__all__ = ["rewrite_targets"]


def rewrite_targets(bundle: Bundle, targets: list[TargetEntry]) -> Bundle:
    """Replace the manifest's targets by the same ones with other figures.

    The manifest is replaced in one step. The bundle's own hash changes with it, while what was measured of its speed
    stays valid.

    Returns:
        The bundle as it is now.

    Raises:
        InputError: the folder cannot be written; the bundle is as it was.
    """
    manifest = msgspec.structs.replace(bundle.manifest, targets=targets)
    with write_atomic(bundle.path / MANIFEST_FILE) as file:
        file.write(encode_manifest(manifest))
    with write_atomic(bundle.path / CARD_FILE) as file:
        file.write(model_card(manifest, bundle.path.resolve().name).encode())
    return open_bundle(bundle.path)
