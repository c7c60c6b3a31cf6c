"""Rows of Parquet and Arrow IPC files. pyarrow is imported when the first one is read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.system.install import install_hint
from ese_deploy.texts.lines import STDIN, open_bytes

__all__ = ["ARROW_KINDS", "COLUMNAR_KINDS", "columnar_rows", "columnar_schema", "require_pyarrow"]

ARROW_KINDS = (".arrow", ".feather", ".ipc")
COLUMNAR_KINDS = (".parquet", *ARROW_KINDS)
_BATCH = 4096
_MAGIC = b"ARROW1"


def require_pyarrow(what: str | Path) -> Any:
    """Import pyarrow.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise InputError(f"{what} needs pyarrow. {install_hint('bulk')}") from None
    return pyarrow


def columnar_rows(path: Path, kind: str, columns: Sequence[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """Read rows, one batch at a time.

    Args:
        path: the file; ``-`` is standard input, which must be an Arrow IPC stream.
        kind: one of :data:`COLUMNAR_KINDS`.
        columns: read these where the file has them. None: all.

    Raises:
        InputError: pyarrow is missing, or the file is damaged or of another kind.
    """
    with _explained(path, kind):
        for batch in _batches(path, kind, columns):
            yield from batch.to_pylist()


def columnar_schema(path: Path, kind: str) -> Any:
    """The ``pyarrow.Schema`` of a file.

    Raises:
        InputError: as for :func:`columnar_rows`.
    """
    pyarrow = require_pyarrow(path)
    with _explained(path, kind):
        if kind == ".parquet":
            from pyarrow.parquet import read_schema

            return read_schema(path)
        with open_bytes(path) as file:
            if _is_file_format(path):
                return pyarrow.ipc.open_file(file).schema
            return pyarrow.ipc.open_stream(file).schema


def _batches(path: Path, kind: str, columns: Sequence[str] | None) -> Iterator[Any]:
    pyarrow = require_pyarrow(path)
    if kind == ".parquet":
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            kept = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
            yield from file.iter_batches(_BATCH, columns=kept)
        return
    with open_bytes(path) as source:
        if _is_file_format(path):
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(source))
        for batch in batches:
            kept = [name for name in batch.schema.names if columns is None or name in columns]
            narrow = batch.select(kept)
            for start in range(0, len(narrow), _BATCH):
                yield narrow.slice(start, _BATCH)


def _is_file_format(path: Path) -> bool:
    """Whether an Arrow file has the file format; otherwise it is a stream."""
    if path == STDIN or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@contextmanager
def _explained(path: Path, kind: str) -> Iterator[None]:
    pyarrow = require_pyarrow(path)
    name = "Parquet" if kind == ".parquet" else "Arrow IPC"
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{path} cannot be read as {name}: {reason}.") from None
