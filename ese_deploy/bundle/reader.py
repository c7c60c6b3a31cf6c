"""Opening a bundle: every check that can be made without running anything of it."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.bundle.manifest import FileEntry, Manifest, TargetEntry, WeightsEntry, decode_manifest
from ese_deploy.errors import BundleError, InputError
from ese_deploy.system.files import restore_folder, sha256_file
from ese_deploy.target import Target

__all__ = [
    "MANIFEST_FILE",
    "PROFILES_FILE",
    "Bundle",
    "check_hash",
    "choose_entry",
    "choose_pair",
    "is_bundle",
    "open_bundle",
    "read_golden",
    "read_graph",
    "read_profiles_file",
    "read_projection",
    "read_ranges_file",
    "read_tokenizer",
    "verify_weights",
    "weights_of",
]

MANIFEST_FILE = "manifest.json"
PROFILES_FILE = "profiles.toml"

_MIB = 1 << 20
_MAX_MANIFEST = 16 * _MIB
_MAX_FILE = 512 * _MIB
# Windows has no O_NOFOLLOW and O_NONBLOCK; without O_NONBLOCK a named pipe would block the open.
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Bundle:
    """A folder whose manifest, names, sizes and graphs were checked.

    Attributes:
        path: the folder, absolute, so that what is read later is found from any working directory.
        manifest: what ``manifest.json`` says.
        sha256: hash of ``manifest.json``; it stands for the whole bundle, since it holds the hash of every other file.
    """

    path: Path
    manifest: Manifest
    sha256: str


def is_bundle(path: Path) -> bool:
    """Whether the folder has a manifest."""
    return (path / MANIFEST_FILE).is_file()


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check schema, names, links, sizes and the hash of every graph.

    The weights are checked by size only; :func:`verify_weights` hashes them.

    Raises:
        BundleError: the folder is missing, is not a bundle or cannot be read, or a check fails.
    """
    if not str(path):
        raise BundleError("the bundle's path is empty; name the folder that ese-deploy export wrote")
    with _explain_os_error(Path(path)):
        return _open(Path(path))


def _open(folder: Path) -> Bundle:
    restore_folder(folder)
    if not folder.is_dir():
        raise BundleError(f"there is no bundle at {folder}; make one with: ese-deploy export MODEL --out {folder}")
    if not os.path.lexists(folder / MANIFEST_FILE):
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_FILE}")
    _refuse_links(folder)
    data = _read_plain(folder, MANIFEST_FILE, _MAX_MANIFEST)
    manifest = decode_manifest(data, str(folder / MANIFEST_FILE))
    _check_structure(folder, manifest)
    for entry in manifest.weights:
        _check_size(folder, entry)
    _check_size(folder, manifest.tokenizer)
    _check_size(folder, manifest.golden)
    for further in _further_files(manifest):
        _check_size(folder, further)
    for target in manifest.targets:
        _read_entry(folder, target)
    return Bundle(folder.absolute(), manifest, hashlib.sha256(data).hexdigest())


def choose_entry(bundle: Bundle, target: Target | str | None = None) -> TargetEntry:
    """Find a target; without one, the deepest and widest fp32 target, or of another dtype where there is no fp32.

    Raises:
        InputError: the bundle does not contain the target; the message lists those that it contains.
    """
    entries = bundle.manifest.targets
    held = ", ".join(str(entry.target) for entry in entries)
    if target is None:
        return max(entries, key=lambda e: (e.dtype == "fp32", e.depth, e.dim, "onnxruntime" in e.engines, e.dtype))
    wanted = Target.parse(target) if isinstance(target, str) else target
    for entry in entries:
        if entry.target == wanted:
            return entry
    raise InputError(f"{bundle.path} holds no target {wanted}; it holds {held}")


def choose_pair(bundle: Bundle, query: Target | str, document: Target | str) -> tuple[TargetEntry, TargetEntry]:
    """Find a target for queries and one for the documents that they search.

    Raises:
        InputError: the bundle does not hold one of them, or their vectors cannot be compared.
    """
    queries, documents = choose_entry(bundle, query), choose_entry(bundle, document)
    if queries.dim != documents.dim:
        raise InputError(
            f"queries of target {queries.target} have {queries.dim} dimensions, documents of target "
            f"{documents.target} {documents.dim}; name two targets of one dim"
        )
    if queries.space != documents.space:
        raise InputError(
            f"queries of target {queries.target} (space {queries.space}) cannot search documents of target "
            f"{documents.target} (space {documents.space}); name two of one space, or export with --projection aligned"
        )
    return queries, documents


def weights_of(bundle: Bundle, dtype: str) -> WeightsEntry:
    """The weights file that targets of ``dtype`` share."""
    return next(entry for entry in bundle.manifest.weights if entry.dtype == dtype)


def read_graph(bundle: Bundle, entry: TargetEntry) -> bytes:
    """The bytes of a target's ONNX graph, whose size and hash were checked.

    Raises:
        BundleError: the file is missing, a link, or not the one that the manifest describes.
    """
    return _read_entry(bundle.path, entry)


def read_tokenizer(bundle: Bundle) -> bytes:
    """The bytes of ``tokenizer.json``, whose size and hash were checked.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    return _read_entry(bundle.path, bundle.manifest.tokenizer)


def read_golden(bundle: Bundle) -> bytes:
    """The bytes of ``golden.json``, whose size and hash were checked.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    return _read_entry(bundle.path, bundle.manifest.golden)


def read_projection(bundle: Bundle) -> bytes | None:
    """The bytes of the fitted projections, whose size and hash were checked; None where nothing was fitted.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    entry = bundle.manifest.projection_file
    return None if entry is None else _read_entry(bundle.path, entry)


def read_profiles_file(bundle: Bundle) -> bytes | None:
    """The bytes of ``profiles.toml``, whose size and hash were checked; None where the bundle has none.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    entry = bundle.manifest.profiles
    return None if entry is None else _read_entry(bundle.path, entry)


def read_ranges_file(bundle: Bundle) -> bytes | None:
    """The bytes of ``ranges.json``, whose size and hash were checked; None where the bundle has none.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    entry = bundle.manifest.ranges
    return None if entry is None else _read_entry(bundle.path, entry)


def verify_weights(bundle: Bundle, entry: WeightsEntry) -> None:
    """Hash a weights file.

    Raises:
        BundleError: the hash is not the manifest's, or the file cannot be read.
    """
    path = bundle.path / entry.file
    with _explain_os_error(path):
        got = sha256_file(path)
    check_hash(path, got, entry.sha256)


@contextmanager
def _explain_os_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "name a bundle that you may read, or copy it again, whole"
        raise BundleError(f"cannot read {error.filename or path}: {error.strerror}; {advice}") from None


def _refuse_links(folder: Path) -> None:
    # Also files that the manifest does not name: a graph could name one as its weights.
    with os.scandir(folder) as items:
        for item in items:
            if item.is_symlink():
                raise BundleError(
                    f"{item.path} is a link, and a bundle holds none; copy the bundle with links followed (cp -rL)"
                )


def _check_structure(folder: Path, manifest: Manifest) -> None:
    names = [entry.name for entry in manifest.targets]
    files = [entry.file for entry in _all_files(manifest)]
    if not names:
        raise BundleError(f"{folder / MANIFEST_FILE} lists no targets; export the bundle again")
    if len(set(names)) < len(names) or len(set(files)) < len(files):
        raise BundleError(f"{folder / MANIFEST_FILE} names a target or a file twice; export the bundle again")
    for file in files:
        # The schema's pattern ends in $, which Python lets match before a line feed.
        if file.endswith("\n") or Path(file).name != file:
            raise BundleError(f"{folder / MANIFEST_FILE} names the file {file!r}, which is not a plain name")
    dtypes = {entry.dtype for entry in manifest.weights}
    for entry in manifest.targets:
        try:
            expected = entry.target.name
        except InputError as error:
            raise BundleError(f"{folder / MANIFEST_FILE}: {error} Export the bundle again.") from None
        if entry.name != expected or entry.dim > manifest.width or entry.depth > manifest.depth:
            raise BundleError(
                f"{folder / MANIFEST_FILE}: target '{entry.name}' does not agree with its depth {entry.depth}, "
                f"dim {entry.dim} and dtype {entry.dtype} in a model of {manifest.depth} blocks, {manifest.width} wide"
            )
        if entry.dtype not in dtypes:
            raise BundleError(f"{folder / MANIFEST_FILE}: target '{entry.name}' has no weights of dtype {entry.dtype}")


def _all_files(manifest: Manifest) -> list[FileEntry]:
    return [*manifest.weights, *manifest.targets, manifest.tokenizer, manifest.golden, *_further_files(manifest)]


def _further_files(manifest: Manifest) -> list[FileEntry]:
    """Files that not every bundle has."""
    files = (manifest.projection_file, manifest.profiles, manifest.ranges)
    return [entry for entry in files if entry is not None]


def _check_size(folder: Path, entry: FileEntry) -> None:
    path = folder / entry.file
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy the bundle again, whole") from None
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a plain file; a bundle holds plain files only")
    if status.st_size != entry.bytes:
        raise BundleError(
            f"{path} has {status.st_size} bytes, the manifest says {entry.bytes}; copy the bundle again, whole"
        )


def _read_entry(folder: Path, entry: FileEntry) -> bytes:
    _check_size(folder, entry)
    data = _read_plain(folder, entry.file, _MAX_FILE)
    got = hashlib.sha256(data).hexdigest()
    check_hash(folder / entry.file, got, entry.sha256)
    return data


def _read_plain(folder: Path, name: str, limit: int) -> bytes:
    """Read a regular file without following a link and without trusting any stated size."""
    path = folder / name
    with _explain_os_error(path):
        handle = os.open(path, _OPEN)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise BundleError(f"{path} is not a plain file; a bundle holds plain files only")
    with os.fdopen(handle, "rb") as file:
        # As many bytes are asked for as are read, and memory is taken for all that are asked for.
        data = file.read(min(status.st_size, limit) + 1)
    if len(data) > limit:
        raise BundleError(f"{path} is larger than {limit // _MIB} MiB, which no bundle needs; it is not read")
    return data


def check_hash(path: Path, got: str, expected: str) -> None:
    """Check that a file of a bundle is the one that the manifest describes.

    Raises:
        BundleError: its hash is another.
    """
    if got != expected:
        raise BundleError(
            f"{path} is not the file that was exported (sha256 {got[:12]}..., manifest {expected[:12]}...); "
            "copy the bundle again or export it again"
        )
