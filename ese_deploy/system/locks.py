"""Locks on files and folders. They end with the process, so that a crash leaves nothing locked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["lock_folder", "try_lock"]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder; other processes and threads that lock it wait until the end of the block.

    The lock is on the folder itself, so no lock file appears beside it. There is no lock on Windows, on file systems
    without locks, and on a folder that cannot be opened.
    """
    handle = None
    with suppress(OSError):
        handle = _wait_for(folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def try_lock(path: Path) -> int | None:
    """Lock a file or a folder without waiting, until the returned handle is closed.

    Returns:
        None if another process holds the lock, if the file system has no locks, and on Windows, where nobody can write
        to a locked file.

    Raises:
        OSError: the path cannot be opened.
    """
    if os.name == "nt":
        return None
    from filelock import lock_descriptor

    handle = os.open(path, os.O_RDONLY)
    with suppress(OSError):
        if lock_descriptor(handle, blocking=False):
            return handle
    os.close(handle)
    return None


def _wait_for(folder: Path) -> int:
    from filelock import lock_descriptor

    while True:
        handle = os.open(folder, os.O_RDONLY)
        try:
            lock_descriptor(handle)
            # The process that had the lock may have put another folder in its place.
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
