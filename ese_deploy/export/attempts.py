"""Building until what is left passes: a target of int8 that fails is left out, and the others are built anew.

Anew, since weights that only the failed targets read would stay in the file that all of a dtype share.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.errors import CheckFailedError
from ese_deploy.target import DTYPES, Target
from ese_deploy.verify import TargetCheck

__all__ = ["Attempt", "build_passing"]


@dataclass(frozen=True)
class Attempt:
    """Targets, written and measured.

    Attributes:
        folder: where they are.
        manifest: as it stands there.
        checks: what verification found of each.
    """

    folder: Path
    manifest: Manifest
    checks: list[TargetCheck]


def build_passing(
    build: Callable[[Sequence[Target]], Attempt],
    targets: Sequence[Target],
    without: Callable[[Collection[Target]], Sequence[Target]],
    out: Path,
    keep_failed: bool,
) -> tuple[Attempt, list[TargetCheck]]:
    """Build targets, and those that are left where some of int8 fail, until all pass.

    Args:
        build: writes targets into a folder of their own and measures them.
        targets: what to build first.
        without: what to build, given all that failed.
        out: the bundle's folder, for the message.
        keep_failed: take what was built first, whatever failed.

    Returns:
        The last attempt, and what was found of each target that is left out.

    Raises:
        CheckFailedError: a target of a dtype that must not fail did, or nothing is left.
    """
    failed: list[TargetCheck] = []
    while True:
        attempt = build(targets)
        fresh = [check for check in attempt.checks if check.failures]
        if not fresh or keep_failed:
            return attempt, failed
        failed += fresh
        targets = without([check.entry.target for check in failed])
        if not targets or any(not DTYPES[check.entry.dtype].quantized for check in fresh):
            lines = [f"{check.entry.target}: {failure}" for check in failed for failure in check.failures]
            raise CheckFailedError(f"{len(lines)} checks failed; nothing was written to {out}", lines)
