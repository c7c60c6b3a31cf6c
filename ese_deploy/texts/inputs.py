"""The files of an input: single files, folders, patterns, folders saved by ``datasets``, pipes and standard input."""

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.errors import InputError
from ese_deploy.system.files import expand
from ese_deploy.texts.columnar import ARROW_KINDS, COLUMNAR_KINDS, require_pyarrow
from ese_deploy.texts.lines import COMPRESSED, STDIN
from ese_deploy.texts.rows import LINE_KINDS, ROW_KINDS, kind_of, unit_of

__all__ = ["InputFile", "find_inputs"]

_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Attributes:
        path: the file; ``-`` is standard input.
        kind: one of :data:`ese_deploy.texts.rows.ROW_KINDS`.
    """

    path: Path
    kind: str

    @property
    def stream(self) -> bool:
        """Whether the file can be read only once: a pipe, a device or standard input."""
        return self.path == STDIN or not self.path.is_file()

    @property
    def unit(self) -> str:
        """What the numbers of rows count: ``line`` or ``row``."""
        return unit_of(self.kind)

    def stamp(self) -> tuple[int, ...]:
        """What distinguishes the file from one that replaces it, and from itself after a change; () for a stream.

        Raises:
            InputError: the file is gone.
        """
        if self.stream and (self.path == STDIN or self.path.exists()):
            return ()
        try:
            status = self.path.stat()
        except OSError as error:
            raise InputError(f"Cannot read {self.path}: {error.strerror}.") from None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def find_inputs(names: str | Path | Sequence[str | Path], kind: str | None = None) -> list[InputFile]:
    """Find the files that names stand for.

    Args:
        names: files, patterns such as ``data/*.jsonl``, folders, folders saved by ``datasets``, and ``-`` for standard
            input. Files of a folder or a pattern are sorted by path; hidden ones are left out.
        kind: the format of the files, such as ``jsonl``. None: their suffix tells; standard input has one text a line.

    Raises:
        InputError: a name stands for no file, or a file's format is not supported.
    """
    if isinstance(names, (str, Path)):
        names = [names]
    if not names:
        raise InputError("No input. Name a file, a folder, a pattern, or - for standard input.")
    wanted = _kind(kind)
    found = [file for name in names for file in _find(str(name), wanted)]
    if sum(file.path == STDIN for file in found) > 1:
        raise InputError("Standard input (-) can be read once. Name it once.")
    return found


def _kind(name: str | None) -> str | None:
    if name is None:
        return None
    kind = f".{name.removeprefix('.')}"
    if kind not in ROW_KINDS:
        raise InputError(f"Unknown format '{name}'. Choose one of: {', '.join(item[1:] for item in ROW_KINDS)}.")
    return kind


def _find(name: str, kind: str | None) -> Iterator[InputFile]:
    if name == str(STDIN):
        if kind == ".parquet":
            raise InputError("Parquet cannot be read from standard input. Name the file, or send an Arrow IPC stream.")
        yield InputFile(STDIN, kind or ".txt")
        return
    path = expand(name)
    if path.is_dir():
        yield from _saved(path) if _is_saved(path) else _folder(path, kind)
    elif path.exists():
        yield _file(path, kind)
    elif _PATTERN & set(name):
        matched = sorted(Path(item) for item in glob.glob(str(path), recursive=True))  # noqa: PTH207
        files = [_file(item, kind) for item in matched if item.is_file()]
        if not files:
            raise InputError(f"No file matches {name}.")
        yield from files
    else:
        raise InputError(f"There is no file {name}.")


def _file(path: Path, kind: str | None) -> InputFile:
    found = kind or kind_of(path)
    if found not in ROW_KINDS:
        raise InputError(
            f"{path} is not a file of texts. Supported: {', '.join(LINE_KINDS)}, also with .gz and .zst; "
            f"{', '.join(COLUMNAR_KINDS)}. Name another format with --input-format."
        )
    if found in COLUMNAR_KINDS and path.suffix in COMPRESSED:
        raise InputError(f"{path} is compressed as a whole, which {found} files are not. Decompress it first.")
    if found in COLUMNAR_KINDS:
        require_pyarrow(path)
    return InputFile(path, found)


def _folder(path: Path, kind: str | None) -> list[InputFile]:
    files = [
        _file(item, kind)
        for item in sorted(path.rglob("*"))
        if item.is_file()
        and kind_of(item) in ROW_KINDS
        and not any(part.startswith((".", "_")) for part in item.relative_to(path).parts)
    ]
    if not files:
        raise InputError(f"{path} contains no file of texts. Supported: {', '.join(ROW_KINDS)}.")
    return files


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _saved(path: Path) -> list[InputFile]:
    """The files of a folder that ``datasets`` saved with ``save_to_disk``."""
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(str(item.parent) for item in path.glob("*/state.json")))
        raise InputError(f"{path} contains several splits. Name one of: {splits}.")
    try:
        state = json.loads((path / "state.json").read_text("utf-8"))
        names = [item["filename"] for item in state["_data_files"]]
        indices = state.get("_indices_data_files") or state.get("_indices_files")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path / 'state.json'} is not that of a saved data set: {error}.") from None
    if indices:
        raise InputError(f"{path} has indices beside its rows. Save it again after flatten_indices().")
    if not names:
        raise InputError(f"{path} contains no rows.")
    return [_file(path / name, ARROW_KINDS[0]) for name in names]
