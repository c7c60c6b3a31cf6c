"""Reading tables: rows of .tsv, .csv and .jsonl files, plain or with .gz, each with the number of its line."""

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ese_deploy.errors import InputError

__all__ = ["Row", "json_object", "kind_of", "numbered_lines", "read_rows", "stem_of", "text_field"]

_BOM = "\ufeff"
# The most that the csv module takes where a long has 32 bits.
_MAX_FIELD = 2**31 - 1

Row = tuple[int, Mapping[str, Any]]


def kind_of(path: Path) -> str:
    """The suffix that says what a file is, before a ``.gz`` if there is one."""
    suffixes = path.suffixes
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else path.suffix


def stem_of(path: Path) -> str:
    """The file's name without its suffixes."""
    return path.name.removesuffix(".gz").removesuffix(kind_of(path))


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a ``.tsv``, ``.csv`` or ``.jsonl`` file with the number of their line.

    A ``.tsv`` knows no quoting: every character but tab and line feed stands for itself. Empty lines are skipped.

    Raises:
        InputError: the file is missing or not UTF-8, or a line is not what it must be; the message names the line.
    """
    lines = numbered_lines(path)
    kind = kind_of(path)
    if kind == ".jsonl":
        for number, line in lines:
            if line.strip():
                yield number, json_object(line, path, number)
        return
    table = _csv(lines, path) if kind == ".csv" else ((number, line.split("\t")) for number, line in lines if line)
    header = next(table, (1, [""]))[1]
    for number, fields in table:
        if len(fields) != len(header):
            raise InputError(f"{path} line {number} has {len(fields)} fields, the header has {len(header)}")
        yield number, dict(zip(header, fields, strict=True))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines in UTF-8 without their ends, numbered from 1; the file may be compressed as ``.gz``.

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
            f"{path} line {number} is not UTF-8 (byte {error.start + 1}: {error.reason}); convert the file"
        ) from None
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    """The object on a line of JSON.

    Raises:
        InputError: the line is not JSON, or something other than an object.
    """
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path} line {number} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} line {number} is not a JSON object")
    return value


def text_field(row: Mapping[str, Any], column: str, path: Path, number: int) -> str:
    """The text in a column.

    Raises:
        InputError: there is something other than a string.
    """
    value = row[column]
    if not isinstance(value, str):
        raise InputError(f"{path} line {number} has {type(value).__name__} as '{column}', which must be a string")
    return value


def _csv(lines: Iterator[tuple[int, str]], path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_MAX_FIELD)
    # The reader asks for more lines inside a quoted field; a row is named by the line it ends on.
    reader = csv.reader(line + "\n" for _, line in lines)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num} is not CSV: {error}") from None
