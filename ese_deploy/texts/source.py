"""Texts of many files as one stream of rows with ids, and a check of all of them before any work is done."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from ese_deploy.errors import InputError
from ese_deploy.texts.columnar import COLUMNAR_KINDS, columnar_schema
from ese_deploy.texts.dialect import dialect_of
from ese_deploy.texts.fields import Fields, id_of, text_of
from ese_deploy.texts.inputs import InputFile
from ese_deploy.texts.lines import Problem, raise_problem
from ese_deploy.texts.rows import raw_rows

__all__ = ["SourceRow", "Survey", "TextSource"]

Checked = Callable[[int], object]
_EVERY = 4096


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the input.

    Attributes:
        file: its file.
        number: the number of its line, or in Parquet and Arrow that of the row, from 1.
        id: its id, or its position in the whole input, from 0; None if the id itself is broken.
        text: its text, or why there is none.
        kept: the fields to write beside the vector.
    """

    file: InputFile
    number: int
    id: int | str | None
    text: str | Problem
    kept: dict[str, Any]

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.file.path} {self.file.unit} {self.number}"


class Survey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a first reading of the whole input found.

    Attributes:
        rows: rows, bad ones included.
        bad_rows: rows that have no text or no id.
        id_type: ``int64`` or ``string``.
        columns: for each kept field ``string``, ``int64``, ``double``, ``bool``, ``json`` for a mixture or nested
            values, or ``arrow`` for the type of the column of the files.
    """

    rows: int
    bad_rows: int
    id_type: str
    columns: dict[str, str]


@dataclass(frozen=True)
class TextSource:
    """Files of texts, read again at each iteration.

    Attributes:
        files: the files, in order.
        fields: which fields are used.
        encoding: of lines.
        empty_texts: whether the model has a vector for an empty text. Otherwise blank texts are bad rows.
        separator: between the columns of a ``.csv``, by name or as the character; None: a comma.
    """

    files: Sequence[InputFile]
    fields: Fields
    encoding: str = "utf-8"
    empty_texts: bool = True
    separator: str | None = None

    def __post_init__(self) -> None:
        dialect_of(self.encoding, self.separator)

    @property
    def stream(self) -> bool:
        """Whether some file can be read only once."""
        return any(file.stream for file in self.files)

    def __iter__(self) -> Iterator[SourceRow]:
        position = 0
        dialect = dialect_of(self.encoding, self.separator)
        for file in self.files:
            for number, row in raw_rows(file.path, file.kind, dialect, self.fields.needed):
                yield self._row(file, number, row, position)
                position += 1

    def _row(self, file: InputFile, number: int, row: Any, position: int) -> SourceRow:
        fields = self.fields
        if isinstance(row, Problem):
            return SourceRow(file, number, None if fields.id else position, row, {})
        if file.kind == ".txt" and fields.template is None and fields.text != "text":
            row = {fields.text: row["text"]}
        kept = row if fields.keep is None else {name: row.get(name) for name in fields.keep}
        text = text_of(row, fields)
        if isinstance(text, str) and not self.empty_texts and not text.strip():
            text = Problem("has an empty text, and this model has no vector for one")
        missing = next((name for name in fields.keep or () if name not in row), None)
        if missing is not None:
            text = Problem(
                f"has no '{missing}'; it has {', '.join(row) or 'no field'}", "Leave it out of --keep-fields."
            )
        if fields.id is None:
            return SourceRow(file, number, position, text, kept)
        found = id_of(row, fields.id)
        if isinstance(found, Problem):
            return SourceRow(file, number, None, found, kept)
        return SourceRow(file, number, found, text, kept)

    def survey(self, strict: bool, advance: Checked = lambda _: None) -> Survey:
        """Read everything once.

        Args:
            strict: whether a bad row is an error.
            advance: called with the number of rows read, now and then.

        Raises:
            InputError: the input has no row or a strict reading finds a bad row; two rows have one id; or files have
                different types in a kept column.
        """
        arrow = self._arrow_columns()
        hashes, integers = array("Q"), True
        seen: dict[str, set[str]] = {name: set() for name in self.fields.keep or ()}
        rows = bad = 0
        for row in self:
            rows += 1
            if isinstance(row.text, Problem):
                bad += 1
                if strict:
                    raise_problem(row.file.path, row.file.unit, row.number, row.text)
            if self.fields.id is not None and row.id is not None:
                integers = integers and isinstance(row.id, int)
                hashes.append(_hash(row.id))
            for name, value in row.kept.items():
                if name not in arrow:
                    seen.setdefault(name, set()).add(_type(value))
            if rows % _EVERY == 0:
                advance(rows)
        if rows == 0:
            names = ", ".join(str(file.path) for file in self.files[:3])
            raise InputError(f"{names} contains no text.")
        self._refuse_repeated(hashes)
        columns = {name: "arrow" if name in arrow else _column(seen[name]) for name in [*arrow, *seen]}
        order = self.fields.keep if self.fields.keep is not None else [*columns]
        return Survey(rows, bad, "int64" if integers else "string", {name: columns[name] for name in order})

    def arrow_types(self) -> dict[str, Any]:
        """The Arrow type of each kept column whose type is that of the files."""
        return self._arrow_columns()

    def _arrow_columns(self) -> dict[str, Any]:
        """Types of kept columns where all files are Parquet or Arrow; a stream has none."""
        if self.fields.keep == () or self.stream or any(file.kind not in COLUMNAR_KINDS for file in self.files):
            return {}
        found: dict[str, Any] = {}
        for file in self.files:
            schema = columnar_schema(file.path, file.kind)
            for name in schema.names if self.fields.keep is None else self.fields.keep:
                if name not in schema.names:
                    continue
                kind = schema.field(name).type
                if found.setdefault(name, kind) != kind:
                    raise InputError(
                        f"{file.path} has {kind} as '{name}', and a file before it {found[name]}. Convert one of them."
                    )
        return found

    def _refuse_repeated(self, hashes: "array[int]") -> None:
        """Find two rows with one id among those whose hashes are equal.

        Raises:
            InputError: there are two.
        """
        ordered = np.sort(np.array(hashes, np.uint64))
        repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        places: dict[str, str] = {}
        for row in self if repeated else ():
            if row.id is not None and _hash(row.id) in repeated:
                if str(row.id) in places:
                    raise InputError(f"{row.place} has the id '{row.id}' of {places[str(row.id)]}. Ids must differ.")
                places[str(row.id)] = row.place


def _hash(value: int | str) -> int:
    # 8 bytes a row: the ids of 10 million rows take 80 MB. Rows with equal hashes are compared by their ids.
    digest = hashlib.blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _type(value: Any) -> str:
    kinds = {bool: "bool", int: "int64", float: "double", str: "string"}
    return "null" if value is None else kinds.get(type(value), "json")


def _column(types: set[str]) -> str:
    """The type of a column with values of several types."""
    kinds = types - {"null"}
    if kinds == {"int64", "double"}:
        return "double"
    return kinds.pop() if len(kinds) == 1 else "json" if kinds else "string"
