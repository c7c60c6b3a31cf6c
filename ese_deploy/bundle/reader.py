"""Opening a bundle, with every check that does not run it."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ese_deploy.bundle.graph_check import GraphRules, check_graph
from ese_deploy.bundle.limits import check_limits
from ese_deploy.bundle.links import follow_link, is_snapshot
from ese_deploy.bundle.manifest import FileEntry, Manifest, TargetEntry, WeightsEntry, decode_manifest
from ese_deploy.bundle.tokenizer_check import check_tokenizer
from ese_deploy.bundle.versions import Stamp, read_stamp, retry_when_replaced
from ese_deploy.errors import BundleError, InputError
from ese_deploy.system.files import restore_folder, sha256_file
from ese_deploy.target import Target

__all__ = [
    "MANIFEST_FILE",
    "PROFILES_FILE",
    "Bundle",
    "bundle_file",
    "check_hash",
    "choose_entry",
    "choose_pair",
    "comparable_names",
    "is_bundle",
    "open_bundle",
    "optional_files",
    "read_config",
    "read_golden",
    "read_graph",
    "read_profiles_file",
    "read_projection",
    "read_ranges_file",
    "read_tokenizer",
    "read_tokens",
    "verify_weights",
    "weights_of",
]

# Fields of the manifest with files that not every bundle has.
_OPTIONAL = ("projection_file", "tokens", "profiles", "ranges", "config", "tokenizer_config")

MANIFEST_FILE = "manifest.json"
PROFILES_FILE = "profiles.toml"

_MIB = 1 << 20
_MAX_MANIFEST = 16 * _MIB
_MAX_FILE = 512 * _MIB
# Windows has no O_NOFOLLOW and O_NONBLOCK; without O_NONBLOCK a named pipe would block the open.
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, repr=False)
class Bundle:
    """A folder whose manifest, file names, file sizes and graphs were checked.

    Attributes:
        path: the folder, absolute, so that files are found after a change of the working directory.
        manifest: the content of ``manifest.json``.
        sha256: hash of ``manifest.json``. It identifies the whole bundle, because the manifest lists the hash of every
            other file.
        stamps: what the weights files were when the bundle was opened, by name. Graphs that are loaded later must find
            the same files.
    """

    path: Path
    manifest: Manifest
    sha256: str
    stamps: Mapping[str, Stamp | None] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        return f"Bundle('{self.path}', {len(self.manifest.targets)} targets)"


def is_bundle(path: Path) -> bool:
    """Whether the folder has a manifest."""
    return (path / MANIFEST_FILE).is_file()


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check schema, file names, links, sizes and the hash of every graph.

    Of the weights only the size is checked; :func:`verify_weights` checks the hash. What is opened is one version of
    the bundle: if it is replaced meanwhile, everything is read again.

    Raises:
        BundleError: the folder is missing, is not a bundle or cannot be read, or a check fails.
    """
    if not str(path):
        raise BundleError("The path of the bundle is empty. Name the folder that ese-deploy export wrote.")
    return retry_when_replaced(Path(path) / MANIFEST_FILE, lambda: _open(Path(path)))


def _open(folder: Path) -> Bundle:
    with _explain_os_error(folder):
        return _read_bundle(folder)


def _read_bundle(folder: Path) -> Bundle:
    restore_folder(folder)
    if folder.is_file():
        raise BundleError(f"{folder} is a file. Name the folder of the bundle, such as {folder.parent}.")
    if not folder.is_dir():
        raise BundleError(f"There is no bundle at {folder}. Make one with: ese-deploy export MODEL --out {folder}")
    if not os.path.lexists(folder / MANIFEST_FILE):
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_FILE}")
    _refuse_links(folder)
    data = _read_plain(folder, MANIFEST_FILE, _MAX_MANIFEST)
    manifest = decode_manifest(data, str(folder / MANIFEST_FILE))
    _check_structure(folder, manifest)
    if is_snapshot(folder):
        manifest = _downloaded(folder, manifest)
    for entry in manifest.weights:
        _check_size(folder, entry)
    _check_size(folder, manifest.tokenizer)
    _check_size(folder, manifest.golden)
    for further in optional_files(manifest):
        _check_size(folder, further)
    for target in manifest.targets:
        _read_entry(folder, target)
    stamps = {entry.file: read_stamp(folder / entry.file) for entry in manifest.weights}
    return Bundle(folder.absolute(), manifest, hashlib.sha256(data).hexdigest(), stamps)


def choose_entry(bundle: Bundle, target: Target | str | None = None) -> TargetEntry:
    """Find a target; by default the deepest and widest in fp32, or in another dtype if there is none in fp32.

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
    """Find a target for queries and a target for documents.

    Raises:
        InputError: the bundle does not contain one of them, or their vectors cannot be compared.
    """
    queries, documents = choose_entry(bundle, query), choose_entry(bundle, document)
    if queries.dim != documents.dim:
        raise InputError(
            f"Queries of target {queries.target} have {queries.dim} dimensions, documents of target "
            f"{documents.target} have {documents.dim}. Choose two targets with the same number of dimensions."
        )
    if queries.space != documents.space:
        raise InputError(
            f"Queries of target {queries.target} (embedding space {queries.space}) cannot be compared with documents "
            f"of target {documents.target} (embedding space {documents.space}). Choose two targets with the same "
            "embedding space, or export with `projection=aligned`."
        )
    return queries, documents


def comparable_names(bundle: Bundle, index: Target | str) -> set[str]:
    """Names of the targets whose vectors are comparable with those of an index.

    Args:
        bundle: the bundle.
        index: the target that made the vectors of the index.

    Raises:
        InputError: the bundle does not contain the target, or only the target itself is comparable with it.
    """
    documents = choose_entry(bundle, index)
    kept = [entry for entry in bundle.manifest.targets if (entry.dim, entry.space) == (documents.dim, documents.space)]
    if all(entry.depth == documents.depth for entry in kept):
        raise InputError(
            f"No target of another depth can search an index of {documents.target}: none has {documents.dim} "
            f"dimensions in its embedding space ({documents.space}). Export such targets, with `projection=aligned` if "
            "the exits do not share a space."
        )
    return {entry.name for entry in kept}


def weights_of(bundle: Bundle, dtype: str) -> WeightsEntry:
    """The weights file that all targets of a dtype share."""
    return next(entry for entry in bundle.manifest.weights if entry.dtype == dtype)


def read_graph(bundle: Bundle, entry: TargetEntry) -> bytes:
    """The ONNX graph of a target, after a check of size and hash, and of everything that the graph contains.

    Raises:
        BundleError: the file is missing, a link, or not the one that the manifest describes, or the graph is not one
            that an export writes.
    """
    graph, manifest, weights = _read_entry(bundle.path, entry), bundle.manifest, weights_of(bundle, entry.dtype)
    rules = GraphRules(
        weights=weights.file,
        weights_bytes=weights.bytes,
        inputs=tuple(manifest.inputs),
        output=manifest.output,
        dim=entry.dim,
        opset=manifest.opset,
        max_length=manifest.max_seq_length,
    )
    try:
        check_graph(graph, rules)
    except BundleError as error:
        path = bundle.path / entry.file
        raise BundleError(f"{path} is not a graph that an export writes: {error}. Export the bundle again.") from None
    return graph


def read_tokenizer(bundle: Bundle) -> bytes:
    """The bytes of ``tokenizer.json``, after a check of size and hash, and of everything that the file contains.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    entry = bundle.manifest.tokenizer
    data = _read_entry(bundle.path, entry)
    try:
        check_tokenizer(data)
    except BundleError as error:
        path = bundle.path / entry.file
        raise BundleError(
            f"{path} is not a tokenizer that an export writes: {error}. Export the bundle again."
        ) from None
    return data


def read_golden(bundle: Bundle) -> bytes:
    """The bytes of ``golden.json``, after a check of size and hash.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    return _read_entry(bundle.path, bundle.manifest.golden)


def read_projection(bundle: Bundle) -> bytes | None:
    """The bytes of ``projection.safetensors``, after a check of size and hash; None for plain prefixes.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    entry = bundle.manifest.projection_file
    return None if entry is None else _read_entry(bundle.path, entry)


def read_tokens(bundle: Bundle) -> bytes | None:
    """The bytes of ``tokens.safetensors``, after a check of size and hash; None if no projection reads token features.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    entry = bundle.manifest.tokens
    # A large vocabulary needs more than other files may have; the size was checked when the bundle was opened.
    return None if entry is None else _read_entry(bundle.path, entry, entry.bytes)


def read_config(bundle: Bundle, entry: FileEntry | None) -> bytes | None:
    """The bytes of ``config.json`` or ``tokenizer_config.json``, after a check of size and hash; None without it.

    Args:
        bundle: the bundle.
        entry: ``config`` or ``tokenizer_config`` of its manifest.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    return None if entry is None else _read_entry(bundle.path, entry)


def read_profiles_file(bundle: Bundle) -> bytes | None:
    """The bytes of ``profiles.toml``, after a check of size and hash; None if the bundle has none.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    entry = bundle.manifest.profiles
    return None if entry is None else _read_entry(bundle.path, entry)


def read_ranges_file(bundle: Bundle) -> bytes | None:
    """The bytes of ``ranges.json``, after a check of size and hash; None if the bundle has none.

    Raises:
        BundleError: as for :func:`read_graph`.
    """
    entry = bundle.manifest.ranges
    return None if entry is None else _read_entry(bundle.path, entry)


def verify_weights(bundle: Bundle, entry: WeightsEntry) -> None:
    """Check the hash of a weights file.

    Raises:
        BundleError: the hash is not the manifest's, or the file cannot be read.
    """
    path = bundle.path / entry.file
    with _explain_os_error(path):
        got = sha256_file(follow_link(path))
    check_hash(path, got, entry.sha256)


def bundle_file(bundle: Bundle, entry: FileEntry) -> Path:
    """The path of a file, behind the link if the bundle is a snapshot of the Hugging Face cache.

    Raises:
        BundleError: it is a link that leaves the repository folder.
    """
    return follow_link(bundle.path / entry.file)


@contextmanager
def _explain_os_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "Check its permissions, or copy the whole bundle again."
        raise BundleError(f"Cannot read {error.filename or path}: {error.strerror}. {advice}") from None


def _refuse_links(folder: Path) -> None:
    # Files that the manifest does not list count too: a graph could refer to one as its weights.
    with os.scandir(folder) as items:
        for item in items:
            if item.is_symlink():
                follow_link(Path(item.path))


def _check_structure(folder: Path, manifest: Manifest) -> None:
    check_limits(manifest, folder / MANIFEST_FILE)
    names = [entry.name for entry in manifest.targets]
    files = [entry.file for entry in _all_files(manifest)]
    if not names:
        raise BundleError(f"{folder / MANIFEST_FILE} lists no targets. Export the bundle again.")
    if len(set(names)) < len(names) or len(set(files)) < len(files):
        raise BundleError(f"{folder / MANIFEST_FILE} lists a target or a file twice. Export the bundle again.")
    for file in files:
        # In Python the $ of the schema's pattern also matches before a line feed.
        if file.endswith("\n") or Path(file).name != file:
            raise BundleError(f"{folder / MANIFEST_FILE} lists the file {file!r}, which is not a plain name.")
    dtypes = {entry.dtype for entry in manifest.weights}
    for entry in manifest.targets:
        try:
            expected = entry.target.name
        except InputError as error:
            raise BundleError(f"{folder / MANIFEST_FILE}: {error} Export the bundle again.") from None
        if entry.name != expected or entry.dim > manifest.width or entry.depth > manifest.depth:
            raise BundleError(
                f"{folder / MANIFEST_FILE}: target '{entry.name}' contradicts its depth {entry.depth}, "
                f"dim {entry.dim} and dtype {entry.dtype}, or the size of the model."
            )
        if entry.dtype not in dtypes:
            raise BundleError(f"{folder / MANIFEST_FILE}: target '{entry.name}' has no weights of dtype {entry.dtype}.")


def _downloaded(folder: Path, manifest: Manifest) -> Manifest:
    """The part of a manifest whose files are in a snapshot of the cache, which may hold some targets only.

    Raises:
        BundleError: no target is there.
    """

    def present(entry: FileEntry | None) -> bool:
        return entry is not None and os.path.lexists(folder / entry.file)

    weights = [entry for entry in manifest.weights if present(entry)]
    dtypes = {entry.dtype for entry in weights}
    targets = [entry for entry in manifest.targets if present(entry) and entry.dtype in dtypes]
    if not targets:
        raise BundleError(f"{folder} holds the manifest of a bundle but no target. Download it with: ese-deploy pull")
    missing = {name: None for name in _OPTIONAL if not present(getattr(manifest, name))}
    return msgspec.structs.replace(manifest, weights=weights, targets=targets, **missing)


def _all_files(manifest: Manifest) -> list[FileEntry]:
    return [*manifest.weights, *manifest.targets, manifest.tokenizer, manifest.golden, *optional_files(manifest)]


def optional_files(manifest: Manifest) -> list[FileEntry]:
    """The files that not every bundle has."""
    files: list[FileEntry | None] = [getattr(manifest, name) for name in _OPTIONAL]
    return [entry for entry in files if entry is not None]


def _check_size(folder: Path, entry: FileEntry) -> None:
    path = folder / entry.file
    try:
        status = follow_link(path).lstat()
    except FileNotFoundError:
        raise BundleError(f"{path} is missing. Copy the whole bundle again.") from None
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a regular file, which is all that a bundle may contain.")
    if status.st_size != entry.bytes:
        raise BundleError(
            f"{path} has {status.st_size} bytes, but {entry.bytes} in the manifest. Copy the whole bundle again."
        )


def _read_entry(folder: Path, entry: FileEntry, limit: int = _MAX_FILE) -> bytes:
    _check_size(folder, entry)
    data = _read_plain(folder, entry.file, limit)
    got = hashlib.sha256(data).hexdigest()
    check_hash(folder / entry.file, got, entry.sha256)
    return data


def _read_plain(folder: Path, name: str, limit: int) -> bytes:
    """Read a regular file with a limit on its size, following only the links of a cache snapshot."""
    path = folder / name
    with _explain_os_error(path):
        handle = os.open(follow_link(path), _OPEN)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise BundleError(f"{path} is not a regular file, which is all that a bundle may contain.")
    with os.fdopen(handle, "rb") as file:
        # read() allocates as many bytes as it is asked for.
        data = file.read(min(status.st_size, limit) + 1)
    if len(data) > limit:
        raise BundleError(f"{path} is larger than {limit // _MIB} MiB, the limit for files of a bundle.")
    return data


def check_hash(path: Path, got: str, expected: str) -> None:
    """Compare the hash of a file with the manifest's.

    Raises:
        BundleError: they differ.
    """
    if got != expected:
        raise BundleError(
            f"{path} is not the file that was exported (sha256 {got[:12]}..., in the manifest {expected[:12]}...). "
            "Copy or export the bundle again."
        )
