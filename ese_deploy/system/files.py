"""Hashes of files, and atomic writing of files and folders: a crash leaves the old content or the new."""

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ese_deploy.errors import InputError
from ese_deploy.system.locks import try_lock

__all__ = [
    "apply_umask",
    "expand",
    "explain_os_error",
    "replace_folder",
    "restore_folder",
    "sha256_file",
    "staging_folder",
    "sync_folder",
    "write_atomic",
    "write_together",
]

_CHUNK = 1 << 20
_AT_FDCWD = -100
_JUST_CREATED_SECONDS = 60
_RENAME_EXCHANGE = 2
_TRIES = 100


def expand(name: str | Path) -> Path:
    """Replace a leading ``~`` or ``~user`` by the home folder.

    Raises:
        InputError: the home folder is not known.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise InputError(f"The home folder of {name} is not known. Write ./{name} for a folder of that name.") from None


def sha256_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Hash a file, 1 MiB at a time.

    Args:
        path: the file.
        advance: called with the number of bytes read.
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
    """Open a temporary file beside ``path``, and rename it to ``path`` at the end of the block, after fsync.

    If the block raises, ``path`` is unchanged. Temporary files of killed processes are removed. If ``path`` is a
    symbolic link, the file behind it is replaced. Pipes and devices are written to directly.

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
        lock = try_lock(temporary)
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


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Replace several files: all of them, or none if one cannot be written.

    Each is written beside its place, with fsync, before the first is renamed. If a rename fails, the files that were
    renamed before get their old content back.

    Raises:
        InputError: a file cannot be written.
    """
    written: dict[Path, Path] = {}
    old: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            with explain_os_error(path):
                written[path] = _write_beside(path, content)
                if path.is_file():
                    old[path] = _write_beside(path, path.read_bytes())
        renamed: list[Path] = []
        try:
            for path, temporary in written.items():
                with explain_os_error(path):
                    temporary.replace(path)
                renamed.append(path)
        except BaseException:
            for path in renamed:
                with suppress(OSError):
                    old[path].replace(path) if path in old else path.unlink()
            raise
        for folder in {path.parent for path in contents}:
            _fsync_folder(folder)
    finally:
        for temporary in (*written.values(), *old.values()):
            temporary.unlink(missing_ok=True)


def _write_beside(path: Path, content: bytes) -> Path:
    """A new file with the content in the folder of ``path``, after fsync."""
    prefix = f".{path.name}.part-"
    _remove_abandoned(path.parent, prefix)
    handle, name = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


@contextmanager
def staging_folder(out: Path) -> Iterator[Path]:
    """Create an empty folder beside ``out``, and delete it at the end of the block.

    To keep its content, pass it to :func:`replace_folder` inside the block. Staging folders of killed processes are
    removed.

    Raises:
        InputError: the folder cannot be created or written.
    """
    with explain_os_error(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{out.name}.staging-"
        _remove_abandoned(out.parent, prefix)
        staging = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
        lock = try_lock(staging)
        try:
            staging.chmod(0o777 & ~_umask())
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def replace_folder(staged: Path, out: Path) -> None:
    """Replace ``out`` by ``staged``; a crash at any moment leaves the old folder or the new one complete.

    Linux exchanges the two folders in one step. Other systems first rename the old folder to ``NAME.previous``.
    :func:`restore_folder` renames it back if the process dies before the second rename.
    """
    apply_umask(staged)
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


def apply_umask(folder: Path) -> None:
    """Give everything inside a folder the permissions of new files. Some libraries let only the owner read theirs."""
    allowed = ~_umask()
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        path.chmod((0o777 if path.is_dir() else 0o666) & allowed)


def sync_folder(folder: Path) -> None:
    """Fsync a folder and everything inside it."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _fsync_folder(path)
        else:
            with path.open("r+b" if os.name == "nt" else "rb") as file:  # Windows syncs only writable files
                os.fsync(file.fileno())
    _fsync_folder(folder)


def restore_folder(out: Path) -> None:
    """Undo a replacement that was interrupted between its two renames."""
    if out.exists():
        return
    previous = _previous(out)
    if previous.is_dir():
        with suppress(OSError):
            previous.rename(out)


@contextmanager
def explain_os_error(path: Path) -> Iterator[None]:
    """Raise an ``OSError`` of the block as an ``InputError`` with advice.

    Raises:
        InputError: instead of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = " Free some space or choose another disk."
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            advice = " Choose a folder that you may write to."
        else:
            advice = ""
        reason = error.strerror or str(error)
        raise InputError(f"Cannot write {path}: {reason}. Nothing was changed.{advice}") from error


def _previous(out: Path) -> Path:
    return out.with_name(f"{out.name}.previous")


def _rename_both(staged: Path, out: Path, previous: Path) -> None:
    """Rename ``out`` to ``previous`` and ``staged`` to ``out``; try again if a reader undoes the first rename."""
    for left in reversed(range(_TRIES)):
        out.rename(previous)
        try:
            staged.rename(out)
            return
        except OSError:
            if not left or previous.exists():
                raise


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove files and folders of killed processes: those that are not locked and not just created."""
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            lock = try_lock(path)
            if lock is None:
                continue
            try:
                if time.time() - path.stat().st_mtime > _JUST_CREATED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
            finally:
                os.close(lock)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step. Returns False if the system or the file system cannot."""
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
    # Some folders cannot be opened, and some file systems sync no folders. The rename is done in any case.
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
