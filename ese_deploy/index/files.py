"""Files of vectors that are read and written a chunk at a time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic

__all__ = ["Source", "open_npy", "open_parquet"]

_ROWS = 8192
# Key of the metadata of a .parquet file that says what its vectors are.
_KEY = b"ese_deploy"

Chunks = Iterator[NDArray[np.float32]]


class Source(Protocol):
    """An open file of vectors."""

    @property
    def count(self) -> int:
        """Number of vectors."""
        ...

    @property
    def space(self) -> str | None:
        """The embedding space that the file names; None if it names none."""
        ...

    def chunks(self) -> Iterator[NDArray[np.floating]]:
        """The vectors in order, [rows, width] at a time.

        Raises:
            InputError: a vector is missing or has another width.
        """
        ...

    def write(self, out: Path, dim: int, space: str, chunks: Chunks) -> None:
        """Write a file of the same format with other vectors, which are made of :meth:`chunks`."""
        ...


@dataclass(frozen=True)
class _Npy:
    vectors: NDArray[np.floating]
    space: None = None

    @property
    def count(self) -> int:
        return len(self.vectors)

    def chunks(self) -> Iterator[NDArray[np.floating]]:
        for start in range(0, len(self.vectors), _ROWS):
            yield self.vectors[start : start + _ROWS]

    def write(self, out: Path, dim: int, space: str, chunks: Chunks) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, dim)}
        with write_atomic(out) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                file.write(chunk.astype("<f4").tobytes())


@contextmanager
def open_npy(path: Path, column: str, width: int) -> Iterator[_Npy]:
    """Map a ``.npy`` file; ``column`` is not used.

    Raises:
        InputError: it cannot be read, or does not contain vectors of ``width`` dimensions.
    """
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"Cannot read {path}: {error}. Give a .npy file of float vectors.") from None
    if vectors.ndim != 2 or vectors.shape[1] != width or not np.issubdtype(vectors.dtype, np.floating):
        raise InputError(
            f"{path} has the shape {list(vectors.shape)} and dtype {vectors.dtype}. Give float vectors "
            f"[n, {width}], as the model makes them before any truncation or quantization."
        )
    yield _Npy(vectors)


@dataclass
class _Parquet:
    file: Any
    path: Path
    column: str
    width: int
    _batch: Any = field(default=None, init=False)

    @property
    def count(self) -> int:
        return int(self.file.metadata.num_rows)

    @property
    def space(self) -> str | None:
        stated = (self.file.schema_arrow.metadata or {}).get(_KEY)
        try:
            facts = json.loads(stated or b"{}")
            # Files of `embed` have a space for each column of vectors, in the order of the columns.
            columns = [name for name in self.file.schema_arrow.names if name.startswith("embedding")]
            found = facts.get("space") or dict(zip(columns, facts.get("spaces") or (), strict=False)).get(self.column)
        except (ValueError, AttributeError, TypeError):
            return None
        return found if isinstance(found, str) else None

    def chunks(self) -> Iterator[NDArray[np.floating]]:
        for batch in self.file.iter_batches(_ROWS):
            self._batch = batch
            rows = batch.column(self.column)
            values = np.asarray(rows.flatten())
            if rows.null_count or len(values) != len(rows) * self.width or len(set(_lengths(rows))) > 1:
                raise InputError(
                    f"Column '{self.column}' of {self.path} has missing vectors, or vectors of other than {self.width} "
                    "dimensions. Give vectors of the model as they are before any truncation."
                )
            yield values.reshape(len(rows), self.width)

    def write(self, out: Path, dim: int, space: str, chunks: Chunks) -> None:
        import pyarrow
        from pyarrow import parquet

        kind = pyarrow.list_(pyarrow.float32(), dim)
        place = self.file.schema_arrow.get_field_index(self.column)
        schema = self.file.schema_arrow.set(place, pyarrow.field(self.column, kind))
        stated = json.dumps({"space": space, "dim": dim}).encode()
        schema = schema.with_metadata({**(schema.metadata or {}), _KEY: stated})
        with write_atomic(out) as file, parquet.ParquetWriter(file, schema) as writer:
            for chunk in chunks:
                values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(chunk.ravel()), dim)
                columns = [values if number == place else item for number, item in enumerate(self._batch.columns)]
                writer.write_batch(pyarrow.RecordBatch.from_arrays(columns, schema=schema))


@contextmanager
def open_parquet(path: Path, column: str, width: int) -> Iterator[_Parquet]:
    """Open a ``.parquet`` file.

    Raises:
        InputError: pyarrow is missing, or the file cannot be read or has no such column of lists of floats.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"Reading {path} needs pyarrow. Run: pip install pyarrow") from None
    try:
        file = parquet.ParquetFile(path, memory_map=True)
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"Cannot read {path}: {reason}. Give a .parquet file with a column of vectors.") from None
    with file:
        schema = file.schema_arrow
        if column not in schema.names:
            raise InputError(f"{path} has no column '{column}'. Name one with `column`: {', '.join(schema.names)}.")
        kind = schema.field(column).type
        lists = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
        lists = lists or pyarrow.types.is_fixed_size_list(kind)
        if not lists or not pyarrow.types.is_floating(kind.value_type):
            raise InputError(f"Column '{column}' of {path} has the type {kind}. Give a column of lists of floats.")
        yield _Parquet(file, path, column, width)


def _lengths(rows: Any) -> list[int]:
    import pyarrow.compute

    lengths: list[int] = pyarrow.compute.unique(pyarrow.compute.list_value_length(rows)).to_pylist()
    return lengths
