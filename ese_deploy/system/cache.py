"""The folder in which this machine keeps measurements and compiled plans."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from platformdirs import user_cache_path

from ese_deploy.errors import InputError
from ese_deploy.system.files import expand
from ese_deploy.system.locks import lock_folder

__all__ = ["CACHE_VARIABLE", "cache_folder", "locked_cache_folder"]

CACHE_VARIABLE = "ESE_DEPLOY_CACHE"


def cache_folder() -> Path:
    """The folder that ``ESE_DEPLOY_CACHE`` names, or the platform's cache folder, such as ``~/.cache/ese-deploy``.

    Raises:
        InputError: the folder is in the user's home folder, and the user has none.
    """
    if stated := os.environ.get(CACHE_VARIABLE):
        return expand(stated)
    with suppress(RuntimeError):  # older releases of platformdirs return a path that begins with ~ instead
        folder = user_cache_path("ese-deploy", appauthor=False)
        if folder.is_absolute():
            return folder
    raise InputError(f"This user has no home folder for the cache. Set {CACHE_VARIABLE} to a folder.")


@contextmanager
def locked_cache_folder(folder: Path) -> Iterator[None]:
    """Create a folder of the cache and lock it until the end of the block.

    Raises:
        InputError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"Cannot write {folder}: {error.strerror}. Set {CACHE_VARIABLE} to a folder that you may write to."
        ) from error
    with lock_folder(folder):
        yield
