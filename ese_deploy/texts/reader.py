"""Reading texts and rows from .txt, .jsonl, .tsv and .csv files, plain or compressed as .gz, with line numbers."""

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ese_deploy.errors import InputError

__all__ = [
    "NumberedRow",
    "TextFile",
    "TextRow",
    "chunks",
    "kind_of",
    "numbered_lines",
    "open_texts",
    "read_rows",
    "stem_of",
    "text_field",
]

_BOM = "\ufeff"
_TEXT_KINDS = (".txt", ".jsonl", ".tsv", ".csv")
# The largest limit that the csv module accepts where a C long has 32 bits.
_MAX_FIELD = 2**31 - 1

NumberedRow = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True)
class TextRow:
    """A text of a file.

    Attributes:
        text: the text.
        fields: all fields of its row; for a line of plain text, the text alone.
    """

    text: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class TextFile:
    """A file of texts in UTF-8, read again at each iteration.

    Attributes:
        path: the file. In a ``.txt`` each line is a text; other kinds are tables.
        field: the column of the text.
        advice: what to do where a row lacks the column.
    """

    path: Path
    field: str
    advice: str = "Name the field with --text-field."

    def check(self) -> int:
        """Read the whole file, so that a bad line is reported before any work is done.

        Returns:
            The number of texts.

        Raises:
            InputError: a line is not UTF-8, not a row of the file's kind, or has no text; or the file is empty.
        """
        count = sum(1 for _ in self)
        if count == 0:
            raise InputError(f"{self.path} contains no text.")
        return count

    def __iter__(self) -> Iterator[TextRow]:
        if kind_of(self.path) == ".txt":
            yield from (TextRow(line, {self.field: line}) for _, line in numbered_lines(self.path))
            return
        for number, row in read_rows(self.path):
            if self.field not in row:
                raise InputError(
                    f"{self.path} line {number} has no '{self.field}'; it has {', '.join(row) or 'no field'}. "
                    f"{self.advice}"
                )
            yield TextRow(text_field(row, self.field, self.path, number), row)


def open_texts(path: Path, field: str) -> TextFile:
    """Open a file of texts.

    Args:
        path: a ``.txt``, ``.jsonl``, ``.tsv`` or ``.csv`` file, also compressed as ``.gz``.
        field: the column of the text.

    Raises:
        InputError: the file is missing or of another kind.
    """
    if kind_of(path) not in _TEXT_KINDS:
        raise InputError(f"{path} is not a text file. Supported: {', '.join(_TEXT_KINDS)}, also with .gz.")
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    return TextFile(path, field)


def chunks(rows: Iterable[TextRow], size: int) -> Iterator[list[TextRow]]:
    """Cut a stream into lists of ``size`` rows."""
    stream = iter(rows)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk


def kind_of(path: Path) -> str:
    """The suffix that tells the format of a file, without ``.gz``."""
    suffixes = path.suffixes
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else path.suffix


def stem_of(path: Path) -> str:
    """The file's name without its suffixes."""
    return path.name.removesuffix(".gz").removesuffix(kind_of(path))


def read_rows(path: Path) -> Iterator[NumberedRow]:
    """Read the rows of a ``.tsv``, ``.csv`` or ``.jsonl`` file with their line numbers.

    A ``.tsv`` has no quoting: every character except tab and line feed is literal. Empty lines are skipped.

    Raises:
        InputError: the file is missing or not UTF-8, or a line is malformed. The message names the line.
    """
    lines = numbered_lines(path)
    kind = kind_of(path)
    if kind == ".jsonl":
        yield from ((number, _parse_json(line, path, number)) for number, line in lines if line.strip())
        return
    tabbed = ((number, line.split("\t")) for number, line in lines if line)
    table = _parse_csv(lines, path) if kind == ".csv" else tabbed
    header = next(table, (1, [""]))[1]
    for number, fields in table:
        if len(fields) != len(header):
            raise InputError(f"{path} line {number} has {len(fields)} fields, the header has {len(header)}.")
        yield number, dict(zip(header, fields, strict=True))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read the lines of a file without their ends, numbered from 1.

    Raises:
        InputError: the file cannot be read, or a line is not UTF-8.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            for number in itertools.count(1):
                line = file.readline()
                if not line:
                    return
                text = line.decode("utf-8").removeprefix(_BOM if number == 1 else "")
                yield number, text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} line {number} is not UTF-8 (byte {error.start + 1}: {error.reason}). Convert the file."
        ) from None
    except FileNotFoundError:
        raise InputError(f"There is no file {path}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


def text_field(row: Mapping[str, Any], column: str, path: Path, number: int) -> str:
    """The text in a column of a row.

    Raises:
        InputError: the value is not a string.
    """
    value = row[column]
    if not isinstance(value, str):
        raise InputError(f"{path} line {number} has {type(value).__name__} as '{column}', which must be a string.")
    return value


def _parse_json(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path} line {number} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} line {number} is not a JSON object.")
    return value


def _parse_csv(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_MAX_FIELD)
    # The reader takes more lines inside a quoted field; the number is that of the line on which a row ends.
    reader = csv.reader(line + "\n" for _, line in lines)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not CSV: {error}.") from None
