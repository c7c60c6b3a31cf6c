"""Writing quality figures into a bundle."""

from collections.abc import Mapping, Sequence

import msgspec

from ese_deploy.bundle import MANIFEST_FILE, Bundle, open_bundle
from ese_deploy.card import CARD_FILE, model_card
from ese_deploy.files import write_atomic
from ese_deploy.manifest import Quality, TargetEntry, encode_manifest
from ese_deploy.target import Target

__all__ = ["save_quality"]


def save_quality(bundle: Bundle, figures: Mapping[Target, Sequence[Quality]]) -> Bundle:
    """Write figures into the manifest and the model card, in place of older ones of the same metric and data.

    The manifest is replaced in one step and no other file that it hashes is touched. The bundle's own hash changes
    with it, while what was measured of its speed stays valid.

    Args:
        bundle: the bundle.
        figures: for each target its figures, shares included.

    Returns:
        The bundle as it is now.

    Raises:
        InputError: the folder cannot be written; the bundle is as it was.
    """
    targets = [_merge(entry, figures.get(entry.target, ())) for entry in bundle.manifest.targets]
    manifest = msgspec.structs.replace(bundle.manifest, targets=targets)
    with write_atomic(bundle.path / MANIFEST_FILE) as file:
        file.write(encode_manifest(manifest))
    with write_atomic(bundle.path / CARD_FILE) as file:
        file.write(model_card(manifest, bundle.path.resolve().name).encode())
    return open_bundle(bundle.path)


def _merge(entry: TargetEntry, figures: Sequence[Quality]) -> TargetEntry:
    fresh = {(figure.metric, figure.data) for figure in figures}
    kept = [figure for figure in entry.quality if (figure.metric, figure.data) not in fresh]
    return msgspec.structs.replace(entry, quality=[*kept, *figures])
