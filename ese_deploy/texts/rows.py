"""Rows of every kind of file, with their numbers; a broken row is a problem, and the rows after it are still read."""

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ese_deploy.errors import InputError
from ese_deploy.texts.columnar import COLUMNAR_KINDS, columnar_rows
from ese_deploy.texts.dialect import SEPARATORS, Dialect
from ese_deploy.texts.lines import COMPRESSED, Problem, numbered_lines

__all__ = ["LINE_KINDS", "ROW_KINDS", "Row", "dialect_lines", "kind_of", "raw_rows", "stem_of", "unit_of"]

LINE_KINDS = (".txt", ".jsonl", ".tsv", ".csv")
ROW_KINDS = (*LINE_KINDS, *COLUMNAR_KINDS)
# The largest limit that the csv module accepts where a C long has 32 bits.
MAX_FIELD = 2**31 - 1

Row = Mapping[str, Any]
_LINE = "text"
_OTHER_ENCODING = "Convert the file to UTF-8, or name its encoding, for example `encoding=cp1252`."


def kind_of(path: Path) -> str:
    """The suffix that tells the format of a file, without that of a compression."""
    suffixes = path.suffixes
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in COMPRESSED else path.suffix


def stem_of(path: Path) -> str:
    """The file's name without its suffixes."""
    name = path.name.removesuffix(path.suffix) if path.suffix in COMPRESSED else path.name
    return name.removesuffix(kind_of(path))


def unit_of(kind: str) -> str:
    """What the numbers of rows count: ``line`` or ``row``."""
    return "row" if kind in COLUMNAR_KINDS else "line"


def raw_rows(
    path: Path, kind: str, dialect: Dialect | None = None, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, Row | Problem]]:
    """Read the rows of a file.

    A ``.tsv`` has no quoting: every character except tab and line feed is literal. Empty lines of tables are skipped. A
    line of a ``.txt`` is a row with the field ``text``.

    Args:
        path: the file; ``-`` is standard input.
        kind: one of :data:`ROW_KINDS`.
        dialect: what the options of the command say of lines. None: UTF-8 and commas, and the command has no option.
        columns: the fields that are needed; other columns of Parquet and Arrow are not read. None: all.

    Yields:
        The number of a line, for a quoted row of a ``.csv`` of its last line, or that of a row, from 1; and the row.

    Raises:
        InputError: the file cannot be read.
    """
    if kind in COLUMNAR_KINDS:
        yield from enumerate(columnar_rows(path, kind, columns), start=1)
        return
    lines = dialect_lines(path, dialect)
    if kind == ".txt":
        yield from ((number, line if isinstance(line, Problem) else {_LINE: line}) for number, line in lines)
    elif kind == ".jsonl":
        yield from ((number, _json(line)) for number, line in lines if not isinstance(line, str) or line.strip())
    elif kind == ".csv":
        separator = "," if dialect is None else dialect.separator or ","
        rows = _parse_csv(lines, path, separator)
        yield from _table(rows if dialect and dialect.separator else _with_columns(rows, path, dialect), path)
    else:
        tabbed = ((number, line if isinstance(line, Problem) else line.split("\t")) for number, line in lines if line)
        yield from _table(tabbed, path)


def dialect_lines(path: Path, dialect: Dialect | None) -> Iterator[tuple[int, str | Problem]]:
    """Read the lines of a file in the encoding of a dialect; see :func:`ese_deploy.texts.lines.numbered_lines`."""
    return numbered_lines(path) if dialect is None else numbered_lines(path, dialect.encoding, _OTHER_ENCODING)


def _table(rows: Iterator[tuple[int, list[str] | Problem]], path: Path) -> Iterator[tuple[int, Row | Problem]]:
    number, header = next(rows, (1, [""]))
    if isinstance(header, Problem):
        raise InputError(f"{path} line {number} {header.reason}. {header.advice}")
    repeated = next((name for place, name in enumerate(header) if name in header[:place]), None)
    if repeated is not None:
        raise InputError(f"{path} line {number} has two columns '{repeated}'. Rename one.")
    for number, fields in rows:
        if isinstance(fields, Problem):
            yield number, fields
        elif len(fields) != len(header):
            yield number, Problem(f"has {len(fields)} fields, the header has {len(header)}")
        else:
            yield number, dict(zip(header, fields, strict=True))


def _with_columns(
    rows: Iterator[tuple[int, list[str] | Problem]], path: Path, dialect: Dialect | None
) -> Iterator[tuple[int, list[str] | Problem]]:
    """Refuse a header that another separator than the comma divides."""
    for first in itertools.islice(rows, 1):
        number, header = first
        if isinstance(header, list) and len(header) == 1:
            other = next((name for name, sign in SEPARATORS.items() if sign in header[0]), None)
            if other is not None:
                advice = f"say so with `separator={other}`" if dialect else "save the file with commas"
                raise InputError(
                    f"{path} line {number} has no comma, and is one column '{header[0]}'. If a {other} separates the "
                    f"columns, {advice}."
                )
        yield first
    yield from rows


def _json(line: str | Problem) -> Row | Problem:
    if isinstance(line, Problem):
        return line
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return Problem(f"is not JSON: {error}")
    return value if isinstance(value, dict) else Problem("is not a JSON object")


def _parse_csv(
    lines: Iterator[tuple[int, str | Problem]], path: Path, separator: str
) -> Iterator[tuple[int, list[str] | Problem]]:
    csv.field_size_limit(MAX_FIELD)
    broken: list[Problem] = []

    def decoded() -> Iterator[str]:
        for _, line in lines:
            if isinstance(line, Problem):
                broken.append(line)
                yield "?\n"
            else:
                yield line + "\n"

    # The reader takes more lines inside a quoted field. Strict: a quote that is never closed would take the whole rest.
    reader, row = csv.reader(decoded(), delimiter=separator, strict=True), 0
    try:
        for fields in reader:
            if broken:
                yield reader.line_num, broken[0]
                broken.clear()
            elif fields:
                yield reader.line_num, fields
            row = reader.line_num
    except csv.Error as error:
        raise InputError(
            f"{path}: the row that begins on line {row + 1} is not CSV: {error}. Close its quotes, and double quotes "
            "inside a quoted field."
        ) from None
