"""Saving the figures of verification in a bundle."""

from collections.abc import Sequence

import msgspec

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.bundle.writer import rewrite_targets
from ese_deploy.verify.report import TargetCheck

__all__ = ["save_parity"]


def save_parity(bundle: Bundle, checks: Sequence[TargetCheck]) -> Bundle:
    """Write parity into the manifest and the model card.

    It replaces earlier figures of the same engine and device, and the entry that calls the engine not verified.

    Raises:
        InputError: as for :func:`ese_deploy.bundle.writer.rewrite_targets`.
    """
    found = {check.entry.name: check.parity for check in checks}

    def change(entry: TargetEntry) -> TargetEntry:
        fresh = found.get(entry.name)
        if fresh is None:
            return entry
        kept = [
            one
            for one in entry.parity
            if one.engine != fresh.engine or (one.passed is not None and one.device != fresh.device)
        ]
        return msgspec.structs.replace(entry, parity=[*kept, fresh])

    return rewrite_targets(bundle, change)
