"""Writing what verification found into a bundle."""

from collections.abc import Sequence

import msgspec

from ese_deploy.bundle import Bundle
from ese_deploy.rewrite import rewrite_targets
from ese_deploy.verify.parity import TargetCheck

__all__ = ["save_parity"]


def save_parity(bundle: Bundle, checks: Sequence[TargetCheck]) -> Bundle:
    """Write parity into the manifest and the model card, in place of what stood there of the same engine and device.

    An engine that stood there as not verified no longer does.

    Raises:
        InputError: the folder cannot be written; the bundle is as it was.
    """
    found = {check.entry.name: check.parity for check in checks}
    targets = []
    for entry in bundle.manifest.targets:
        fresh = found.get(entry.name)
        if fresh is not None:
            kept = [
                one
                for one in entry.parity
                if one.engine != fresh.engine or (one.passed is not None and one.device != fresh.device)
            ]
            entry = msgspec.structs.replace(entry, parity=[*kept, fresh])
        targets.append(entry)
    return rewrite_targets(bundle, targets)
