"""Reading texts from a file, a piece at a time."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.texts.rows import json_object, numbered_lines

__all__ = ["Row", "TextFile", "chunks", "open_texts"]


@dataclass(frozen=True)
class Row:
    """A text and the fields that came with it.

    Attributes:
        text: the text.
        fields: all fields of a JSON line; for a line of plain text, the text alone.
    """

    text: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class TextFile:
    """A file of texts, in UTF-8.

    Attributes:
        path: ``.txt`` with a text on each line, or ``.jsonl``, whose empty lines are skipped.
        field: the field that holds the text.
        advice: what to do where a line lacks it.
    """

    path: Path
    field: str
    advice: str = "name the field with --text-field"

    def check(self) -> int:
        """Read the whole file once, so that a bad line is named before any work is done.

        Returns:
            The number of texts.

        Raises:
            InputError: a line is not UTF-8, not a JSON object, or lacks the text; or the file holds no line.
        """
        count = sum(1 for _ in self)
        if count == 0:
            raise InputError(f"{self.path} holds no text")
        return count

    def __iter__(self) -> Iterator[Row]:
        objects = self.path.suffix == ".jsonl"
        for number, line in numbered_lines(self.path):
            if not objects:
                yield Row(line, {self.field: line})
            elif line.strip():
                yield self._parse_json(line, number)

    def _parse_json(self, line: str, number: int) -> Row:
        fields = json_object(line, self.path, number)
        text = fields.get(self.field)
        if not isinstance(text, str):
            has = ", ".join(fields) or "nothing"
            what = "no" if self.field not in fields else f"{type(text).__name__} as"
            raise InputError(
                f"{self.path} line {number} has {what} '{self.field}', which must be a string; it has {has}; "
                f"{self.advice}"
            )
        return Row(text, fields)


def open_texts(path: Path, field: str) -> TextFile:
    """Take a file of texts.

    Raises:
        InputError: it is missing or of another kind.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise InputError(f"{path} is not a .txt or .jsonl file; those are what can be read")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return TextFile(path, field)


def chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Cut a stream into lists of ``size``."""
    stream = iter(rows)
    while chunk := list(itertools.islice(stream, size)):
        yield chunk
