"""Writing quality figures into a bundle."""

from collections.abc import Mapping, Sequence

import msgspec

from ese_deploy.bundle.manifest import Quality, TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.bundle.writer import rewrite_targets
from ese_deploy.target import Target

__all__ = ["save_quality"]


def save_quality(bundle: Bundle, figures: Mapping[Target, Sequence[Quality]]) -> Bundle:
    """Write figures into the manifest and the model card, in place of older ones of the same metric and data.

    Args:
        bundle: the bundle as it was when it was measured.
        figures: for each target its figures, shares included.

    Returns:
        The bundle as it is now.

    Raises:
        InputError: as for :func:`ese_deploy.bundle.writer.rewrite_targets`.
    """
    return rewrite_targets(bundle, lambda entry: _merge(entry, figures.get(entry.target, ())))


def _merge(entry: TargetEntry, figures: Sequence[Quality]) -> TargetEntry:
    fresh = {(figure.metric, figure.data) for figure in figures}
    kept = [figure for figure in entry.quality if (figure.metric, figure.data) not in fresh]
    return msgspec.structs.replace(entry, quality=[*kept, *figures])
