"""Making a bundle whose targets all pass: quantized targets that fail are left out.

The others are made again, because the weights file of a dtype must not contain weights that only failed targets read.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.writer import BundleDraft
from ese_deploy.errors import CheckFailedError
from ese_deploy.target import DTYPES, Target
from ese_deploy.verify.report import TargetCheck

__all__ = ["Attempt", "make_passing"]

Attempt = tuple[BundleDraft, list[TargetCheck]]


def make_passing(
    make: Callable[[Sequence[Target]], Attempt],
    targets: Sequence[Target],
    out: Path,
    keep_failed: bool,
    select: Callable[[Manifest], Sequence[Target]] | None = None,
) -> tuple[Attempt, list[TargetCheck]]:
    """Make targets, and make those that pass and are selected again, until nothing has to be left out.

    Args:
        make: makes a draft of targets and verifies them.
        targets: the targets to make first.
        out: the folder of the bundle, for the message.
        keep_failed: keep targets that fail.
        select: the targets to keep of those that passed.

    Returns:
        The last attempt, and the checks of targets that failed and are left out.

    Raises:
        CheckFailedError: a target that is not quantized failed, or no target is left.
    """
    failed: list[TargetCheck] = []
    while True:
        draft, checks = make(targets)
        fresh = [] if keep_failed else [check for check in checks if check.failures]
        failed += fresh
        names = {check.entry.name for check in fresh}
        kept = [check.entry.target for check in checks if check not in fresh]
        if fresh and (not kept or any(not DTYPES[check.entry.dtype].quantized for check in fresh)):
            lines = [f"{check.entry.target}: {failure}" for check in failed for failure in check.failures]
            raise CheckFailedError(f"{len(lines)} checks failed; nothing was written to {out}", lines)
        if select is not None:
            passed = [entry for entry in draft.manifest.targets if entry.name not in names]
            selected = select(msgspec.structs.replace(draft.manifest, targets=passed))
            kept = [target for target in kept if target in selected]
        if len(kept) == len(checks):
            return (draft, checks), failed
        targets = kept
