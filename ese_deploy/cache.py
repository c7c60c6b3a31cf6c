"""Where this machine keeps what it measured and compiled."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ese_deploy.errors import InputError

__all__ = ["CACHE_VARIABLE", "cache_folder", "locked_folder"]

CACHE_VARIABLE = "ESE_DEPLOY_CACHE"


def cache_folder() -> Path:
    """The folder: ``ESE_DEPLOY_CACHE``, or the platform's own for caches.

    Raises:
        InputError: that lies in the user's home folder, and the user has none.
    """
    stated = os.environ.get(CACHE_VARIABLE)
    try:
        return Path(stated).expanduser() if stated else _platform_folder()
    except RuntimeError:
        raise InputError(f"there is no home folder to keep a cache in; name a folder with {CACHE_VARIABLE}") from None


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a folder of the cache and hold it; another process that wants to hold it waits for the end of the block.

    Where the system or the file system knows no locks, nobody waits.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Windows opens no folders.
        handle = None if sys.platform == "win32" else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; name a folder that you may write to with {CACHE_VARIABLE}"
        ) from error
    try:
        if handle is not None:
            _wait_for(handle)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _wait_for(handle: int) -> None:
    import fcntl

    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


def _platform_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "ese-deploy/cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/ese-deploy"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ese-deploy"
