"""Noticing that a bundle was replaced while it was read."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ese_deploy.errors import BundleError, EngineError

__all__ = ["Stamp", "read_stamp", "require_version", "retry_when_replaced"]

T = TypeVar("T")

Stamp = tuple[int, ...]
"""Device, inode, size and time of modification of a file. Files of a bundle are replaced, never written to."""

_LIMIT_SECONDS = 10.0
_WAIT_SECONDS = 0.01


def read_stamp(path: Path) -> Stamp | None:
    """What distinguishes a file from one that replaces it; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def require_version(folder: Path, stamps: Mapping[str, Stamp | None], file: str) -> None:
    """Check that a file is the one that was there when the bundle was opened.

    Args:
        folder: the bundle.
        stamps: of the files at that time; files without a stamp are not checked.
        file: the file's name.

    Raises:
        BundleError: another file is there now.
    """
    if file in stamps and read_stamp(folder / file) != stamps[file]:
        raise BundleError(f"{folder} was replaced by another bundle while it was in use. Open it again.")


def _identity(path: Path) -> Stamp | None:
    """The stamp with the time of the inode's last change.

    A copy can keep the size and the time of modification of a file and get the inode of one that was deleted, but it
    cannot keep this time.
    """
    try:
        return (*(read_stamp(path) or ()), path.stat().st_ctime_ns)
    except OSError:
        return None


def retry_when_replaced(manifest: Path, attempt: Callable[[], T]) -> T:
    """Call ``attempt``, and call it again if the bundle was replaced meanwhile, for at most 10 seconds.

    Args:
        manifest: a file of the bundle that every replacement replaces.
        attempt: reads files of the bundle.

    Raises:
        BundleError: of the last attempt, or the bundle is replaced all the time.
        EngineError: of the last attempt.
    """
    end = time.monotonic() + _LIMIT_SECONDS
    while True:
        before = _identity(manifest)
        failed: BundleError | EngineError | None = None
        try:
            result = attempt()
        except (BundleError, EngineError) as error:
            failed = error
        if _identity(manifest) == before:
            if failed is not None:
                raise failed
            return result
        if time.monotonic() > end:
            raise BundleError(f"{manifest.parent} is replaced all the time, so that no version of it could be read.")
        time.sleep(_WAIT_SECONDS)
