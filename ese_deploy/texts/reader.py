"""Reading texts and rows where every line must be right: the first broken one is an error that names it."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.texts.dialect import Dialect
from ese_deploy.texts.lines import Problem, raise_problem
from ese_deploy.texts.rows import ROW_KINDS, dialect_lines, kind_of, raw_rows, stem_of, unit_of

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
        kind = kind_of(self.path)
        if kind == ".txt":
            yield from (TextRow(line, {self.field: line}) for _, line in numbered_lines(self.path))
            return
        for number, row in read_rows(self.path):
            if self.field not in row:
                raise InputError(
                    f"{self.path} {unit_of(kind)} {number} has no '{self.field}'; it has "
                    f"{', '.join(row) or 'no field'}. {self.advice}"
                )
            yield TextRow(text_field(row, self.field, self.path, number), row)


def open_texts(path: Path, field: str) -> TextFile:
    """Open a file of texts.

    Args:
        path: a ``.txt``, ``.jsonl``, ``.tsv`` or ``.csv`` file, also compressed as ``.gz`` or ``.zst``; or a
            ``.parquet`` or Arrow IPC file.
        field: the column of the text.

    Raises:
        InputError: the file is missing, a pipe, or of another kind.
    """
    if kind_of(path) not in ROW_KINDS:
        raise InputError(f"{path} is not a file of texts. Supported: {', '.join(ROW_KINDS)}; lines also as .gz, .zst.")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is a pipe, and the texts are read twice. Write them to a file first.")
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    return TextFile(path, field)


def chunks(rows: Iterable[TextRow], size: int) -> Iterator[list[TextRow]]:
    """Cut a stream into lists of ``size`` rows."""
    stream = iter(rows)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk


def read_rows(path: Path, dialect: Dialect | None = None) -> Iterator[NumberedRow]:
    """Read the rows of a table with the numbers of their lines; for Parquet and Arrow, of their rows.

    A ``.tsv`` has no quoting: every character except tab and line feed is literal. Empty lines are skipped.

    Args:
        path: the file.
        dialect: what the options of the command say of lines; None: UTF-8 and commas, and the command has no option.

    Raises:
        InputError: the file is missing or not UTF-8, or a line is malformed. The message names the line.
    """
    kind = kind_of(path)
    for number, row in raw_rows(path, kind, dialect):
        if isinstance(row, Problem):
            raise_problem(path, unit_of(kind), number, row)
        else:
            yield number, row


def numbered_lines(path: Path, dialect: Dialect | None = None) -> Iterator[tuple[int, str]]:
    """Read the lines of a file without their ends, numbered from 1; arguments as for :func:`read_rows`.

    Raises:
        InputError: the file cannot be read, or a line is not UTF-8.
    """
    for number, line in dialect_lines(path, dialect):
        if isinstance(line, Problem):
            raise_problem(path, "line", number, line)
        else:
            yield number, line


def text_field(row: Mapping[str, Any], column: str, path: Path, number: int) -> str:
    """The text in a column of a row.

    Raises:
        InputError: the value is not a string.
    """
    value = row[column]
    if not isinstance(value, str):
        place = f"{path} {unit_of(kind_of(path))} {number}"
        raise InputError(f"{place} has {type(value).__name__} as '{column}', which must be a string.")
    return value
