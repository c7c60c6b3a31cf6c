"""Formats of an output: how a part is written, and how parts become one file."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import numpy as np

from ese_deploy.bulk.embedder import dtype_of
from ese_deploy.bulk.parts import PartVectors
from ese_deploy.errors import InputError
from ese_deploy.system.install import install_hint

__all__ = ["Format", "Layout", "format_of", "parquet_table"]

_COPY = 1 << 20
_IDS = ".ids.jsonl"


@dataclass(frozen=True)
class Layout:
    """Columns of an output.

    Attributes:
        id_field: the name of the id's column. None: jsonl has none, Parquet has ``id`` with positions.
        id_type: ``int64`` or ``string``.
        kept: for each kept field its type; see :class:`ese_deploy.texts.source.Survey`.
        arrow: types of the columns of type ``arrow``.
        embeddings: the columns of vectors.
        widths: numbers in a vector of each.
        precision: of the vectors.
        metadata: what made the vectors; goes into Parquet files.
        all_ids: write ids beside .npy.
    """

    id_field: str | None
    id_type: str
    kept: dict[str, str]
    arrow: dict[str, Any]
    embeddings: tuple[str, ...]
    widths: tuple[int, ...]
    precision: str
    metadata: dict[str, Any]
    all_ids: bool = False


class Format(Protocol):
    """A format of an output."""

    suffix: str

    def write(self, part: PartVectors, layout: Layout) -> dict[str, Callable[[IO[bytes]], object]]:
        """What to write for a part: for each suffix of its files a function that writes the file."""

    def merge(self, parts: Sequence[Path], layout: Layout, rows: int) -> dict[str, Callable[[IO[bytes]], object]]:
        """What to write for the whole output, given the folder and stem of each part; the main file comes last."""


class _Parquet:
    suffix = ".parquet"

    def write(self, part: PartVectors, layout: Layout) -> dict[str, Callable[[IO[bytes]], object]]:
        import pyarrow.parquet

        table = parquet_table(part, layout)

        def save(file: IO[bytes]) -> None:
            with pyarrow.parquet.ParquetWriter(file, table.schema, **_options(table.schema, layout)) as writer:
                writer.write_table(table)

        return {self.suffix: save}

    def merge(self, parts: Sequence[Path], layout: Layout, rows: int) -> dict[str, Callable[[IO[bytes]], object]]:
        import pyarrow.parquet

        def save(file: IO[bytes]) -> None:
            schema = parquet_schema(layout)
            with pyarrow.parquet.ParquetWriter(file, schema, **_options(schema, layout)) as writer:
                for part in parts:
                    with pyarrow.parquet.ParquetFile(_with(part, self.suffix)) as source:
                        for group in range(source.num_row_groups):
                            writer.write_table(source.read_row_group(group))

        return {self.suffix: save}


class _JsonLines:
    suffix = ".jsonl"

    def write(self, part: PartVectors, layout: Layout) -> dict[str, Callable[[IO[bytes]], object]]:
        def save(file: IO[bytes]) -> None:
            encoder = msgspec.json.Encoder(enc_hook=str)
            for row, values in enumerate(part.kept):
                found = {layout.id_field: part.ids[row], **values} if layout.id_field else dict(values)
                for name, array in zip(layout.embeddings, part.vectors, strict=True):
                    found[name] = None if part.missing[row] else array[row].tolist()
                file.write(encoder.encode(found) + b"\n")

        return {self.suffix: save}

    def merge(self, parts: Sequence[Path], layout: Layout, rows: int) -> dict[str, Callable[[IO[bytes]], object]]:
        return {self.suffix: lambda file: _append(file, [_with(part, self.suffix) for part in parts])}


class _Npy:
    suffix = ".npy"

    def write(self, part: PartVectors, layout: Layout) -> dict[str, Callable[[IO[bytes]], object]]:
        (array,) = part.vectors
        raw = array.astype(array.dtype.newbyteorder("<"))

        def save_ids(file: IO[bytes]) -> None:
            name = layout.id_field or "id"
            for identity, kept in zip(part.ids, part.kept, strict=True):
                file.write(msgspec.json.encode({name: identity, **kept}, enc_hook=str) + b"\n")

        def save(file: IO[bytes]) -> None:
            file.write(raw.tobytes())

        return {**({_IDS: save_ids} if layout.all_ids else {}), ".bin": save}

    def merge(self, parts: Sequence[Path], layout: Layout, rows: int) -> dict[str, Callable[[IO[bytes]], object]]:
        (width,) = layout.widths
        dtype = dtype_of(layout.precision).dtype.newbyteorder("<")
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (rows, width),
        }

        def save(file: IO[bytes]) -> None:
            np.lib.format.write_array_header_1_0(file, header)
            _append(file, [_with(part, ".bin") for part in parts])

        def save_ids(file: IO[bytes]) -> None:
            _append(file, [_with(part, _IDS) for part in parts])

        return {**({_IDS: save_ids} if layout.all_ids else {}), self.suffix: save}


_FORMATS: dict[str, Format] = {item.suffix: item for item in (_Parquet(), _JsonLines(), _Npy())}


def format_of(out: Path) -> Format:
    """The format of an output; a name without a suffix is a folder of Parquet parts.

    Raises:
        InputError: the suffix is unknown, or pyarrow is missing.
    """
    suffix = out.suffix if out.suffix in _FORMATS or (out.suffix and not out.is_dir()) else ".parquet"
    if suffix not in _FORMATS:
        raise InputError(
            f"Cannot write {out}. Choose a name that ends in .npy or .jsonl or .parquet, or without a suffix for a "
            "folder of Parquet parts."
        )
    if suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            raise InputError(f"{out} needs pyarrow. {install_hint('bulk')}") from None
        del pyarrow
    return _FORMATS[suffix]


def parquet_schema(layout: Layout) -> Any:
    """The ``pyarrow.Schema`` of an output, with the metadata under the key ``ese_deploy``."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "json": pa.string(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "bool": pa.bool_(),
    }
    value = pa.from_numpy_dtype(dtype_of(layout.precision).dtype)
    columns = [
        (layout.id_field or "id", types[layout.id_type]),
        *((name, layout.arrow[name] if kind == "arrow" else types[kind]) for name, kind in _kept(layout).items()),
        *((name, pa.list_(value, width)) for name, width in zip(layout.embeddings, layout.widths, strict=True)),
    ]
    return pa.schema(columns, metadata={"ese_deploy": msgspec.json.encode(layout.metadata)})


def parquet_table(part: PartVectors, layout: Layout) -> Any:
    """The ``pyarrow.Table`` of a part."""
    import pyarrow as pa

    schema = parquet_schema(layout)
    name = layout.id_field or "id"
    ids: list[Any] = part.ids if layout.id_type == "int64" else [str(item) for item in part.ids]
    arrays = [pa.array(ids, schema.field(name).type)]
    for field, kind in _kept(layout).items():
        values = [_plain(row.get(field), kind) for row in part.kept]
        arrays.append(pa.array(values, schema.field(field).type))
    mask = pa.array(part.missing) if part.missing.any() else None
    for vectors, width in zip(part.vectors, layout.widths, strict=True):
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, width, mask=mask))
    return pa.Table.from_arrays(arrays, schema=schema)


def _kept(layout: Layout) -> dict[str, str]:
    return {name: kind for name, kind in layout.kept.items() if name != layout.id_field}


def _plain(value: Any, kind: str) -> Any:
    if value is None or kind in ("arrow", "int64", "bool"):
        return value
    if kind == "double":
        return float(value)
    return value if isinstance(value, str) and kind == "string" else msgspec.json.encode(value, enc_hook=str).decode()


def _options(schema: Any, layout: Layout) -> dict[str, Any]:
    # Vectors do not repeat, so that a dictionary and statistics of them only cost time.
    plain = [name for name in schema.names if name not in layout.embeddings]
    return {"compression": "zstd", "use_dictionary": plain, "write_statistics": plain, "store_schema": True}


def _with(part: Path, suffix: str) -> Path:
    return part.with_name(part.name + suffix)


def _append(file: IO[bytes], paths: Sequence[Path]) -> None:
    for path in paths:
        with path.open("rb") as source:
            shutil.copyfileobj(source, file, _COPY)
