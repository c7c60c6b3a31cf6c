"""Where this machine keeps what it measured and compiled."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ese_deploy.errors import InputError
from ese_deploy.system.files import hold_folder

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
    """Make a folder of the cache and hold it, as :func:`ese_deploy.system.files.hold_folder` does.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; name a folder that you may write to with {CACHE_VARIABLE}"
        ) from error
    with hold_folder(folder):
        yield


def _platform_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "ese-deploy/cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/ese-deploy"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ese-deploy"
