"""Hashes, and writing that either happens whole or not at all."""

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ese_deploy.errors import InputError

__all__ = [
    "expand",
    "explain_os_error",
    "hold_folder",
    "replace_folder",
    "restore_folder",
    "sha256_file",
    "staging_folder",
    "sync_folder",
    "write_atomic",
]

_CHUNK = 1 << 20
_AT_FDCWD = -100
_JUST_MADE = 60
_RENAME_EXCHANGE = 2
_TRIES = 100


def expand(name: str | Path) -> Path:
    """A path with the home folder in place of ``~``.

    Raises:
        InputError: it begins with the name of a user who has none.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise InputError(
            f"{name} begins in a home folder that is not known; write ./~ for a folder of that name"
        ) from None


def sha256_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Hash a file in pieces of 1 MiB.

    Args:
        path: the file.
        advance: called with the number of bytes of each piece.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()


@contextmanager
def write_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside ``path`` for writing; at the end of the block it is fsynced and takes the name.

    If the block raises, ``path`` stays as it was. What a killed process left beside it is removed. Of a link the file
    that it names is replaced; a pipe or a device is written to as it is.

    Raises:
        InputError: the file cannot be written (full or read-only disk, missing folder, no permission).
    """
    with explain_os_error(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as stream:
                yield stream
            return
        path = path.resolve()
        prefix = f".{path.name}.part-"
        _remove_abandoned(path.parent, prefix)
        handle, name = tempfile.mkstemp(prefix=prefix, dir=path.parent)
        temporary = Path(name)
        lock = _lock(temporary)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _fsync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Make an empty folder beside ``out`` to build in; it is gone at the end of the block.

    Hand it to :func:`replace_folder` inside the block to keep what was built.

    Raises:
        InputError: the folder cannot be made or written.
    """
    with explain_os_error(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{out.name}.staging-"
        _remove_abandoned(out.parent, prefix)
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
        lock = _lock(staging)
        try:
            staging.chmod(0o777 & ~_umask())
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if lock is not None:
                os.close(lock)


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a folder; another process or thread that wants to hold it waits for the end of the block.

    Where the system or the file system knows no locks, or the folder cannot be opened, nobody waits.
    """
    handle = None
    if sys.platform != "win32":  # which opens no folders
        with suppress(OSError):
            handle = _wait_for(folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _wait_for(folder: Path) -> int:
    import fcntl

    while True:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Who held it may have put another folder in its place.
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def replace_folder(staged: Path, out: Path) -> None:
    """Let ``staged`` take the place of ``out``; a crash at any moment leaves one of them whole under its name.

    Linux exchanges the two folders in one step. Elsewhere the old folder is first renamed to ``NAME.previous``, from
    which :func:`restore_folder` brings it back if the process dies before the second rename.
    """
    sync_folder(staged)
    if not out.exists():
        staged.rename(out)
    elif not _exchange(staged, out):
        previous = _previous(out)
        if previous.exists():
            shutil.rmtree(previous)
        _rename_both(staged, out, previous)
        shutil.rmtree(previous, ignore_errors=True)
    _fsync_folder(out.parent)


def sync_folder(folder: Path) -> None:
    """Let all that lies in a folder, and in folders inside it, reach the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _fsync_folder(path)
        else:
            with path.open("r+b" if os.name == "nt" else "rb") as file:  # Windows syncs what may be written
                os.fsync(file.fileno())
    _fsync_folder(folder)


def restore_folder(out: Path) -> None:
    """Undo a replacement that was cut off between its two renames."""
    if out.exists():
        return
    previous = _previous(out)
    if previous.is_dir():
        with suppress(OSError):
            previous.rename(out)


@contextmanager
def explain_os_error(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into one line that says what to do.

    Raises:
        InputError: in place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "free some room or write elsewhere; nothing was changed"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            advice = "choose a folder that you may write to; nothing was changed"
        else:
            advice = "nothing was changed"
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}; {advice}") from error


def _previous(out: Path) -> Path:
    return out.with_name(f"{out.name}.previous")


def _rename_both(staged: Path, out: Path, previous: Path) -> None:
    """Rename ``out`` to ``previous`` and ``staged`` to ``out``, again where a reader undid the first in between."""
    for left in reversed(range(_TRIES)):
        out.rename(previous)
        try:
            staged.rename(out)
            return
        except OSError:
            if not left or previous.exists():
                raise


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove what a killed process left: files and folders that nobody holds and that are not just being made."""
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            lock = _lock(path)
            if lock is None:
                continue
            try:
                if time.time() - path.stat().st_mtime > _JUST_MADE:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            finally:
                os.close(lock)


def _lock(path: Path) -> int | None:
    """Hold a file or folder until the handle is closed or the process dies; None where it is held, or cannot be."""
    if sys.platform == "win32":
        return None
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where the system or file system has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done: int = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return done == 0


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    # What was renamed is there, also in a folder that may not be read or on a file system that syncs none.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    # The only portable way to read the mask is to set it; 0o077 keeps a racing thread's files private.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
