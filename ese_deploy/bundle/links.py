"""Links in a snapshot of the Hugging Face cache, and why all other links are refused."""

import os
import stat
from pathlib import Path

from ese_deploy.errors import BundleError

__all__ = ["follow_link", "is_snapshot"]

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is a snapshot of the Hugging Face cache: ``models--OWNER--NAME/snapshots/COMMIT``."""
    real = folder.resolve()
    return real.parent.name == _SNAPSHOTS and (real.parent.parent / _BLOBS).is_dir()


def follow_link(path: Path) -> Path:
    """The file itself, or the file behind a link of a cache snapshot.

    A snapshot links each file to one in ``blobs``, a folder of the same repository folder. Only such links are
    followed, and only one: the file behind must be a regular file. Its content is checked as that of any file.

    Raises:
        BundleError: the path is a link that leads elsewhere.
    """
    if not path.is_symlink():
        return path
    folder = path.parent.resolve()
    if folder.parent.name != _SNAPSHOTS:
        raise BundleError(f"{path} is a link, which a bundle must not contain. Copy the bundle with cp -rL.")
    behind = folder / path.readlink()
    # The folder of the file behind, with every link on the way to it resolved.
    place = Path(os.path.realpath(behind.parent))
    if place != folder.parent.parent / _BLOBS or behind.name in ("", ".", ".."):
        raise BundleError(
            f"{path} is a link that leaves the repository folder of the cache. Download the bundle again."
        )
    blob = place / behind.name
    try:
        regular = stat.S_ISREG(blob.lstat().st_mode)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing: its link leads to no file. Download the bundle again.") from None
    if not regular:
        raise BundleError(f"{path} is a link to something that is not a regular file. Download the bundle again.")
    return blob
