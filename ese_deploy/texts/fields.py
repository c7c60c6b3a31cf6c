"""Which fields of a row are its text, its id, and kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.texts.lines import Problem

__all__ = ["Fields", "Template", "id_of", "parse_template", "text_of"]

_MOST_ID = 2**63 - 1


@dataclass(frozen=True)
class Template:
    """How a text is made of fields.

    Attributes:
        text: the template as it was written.
        pieces: pairs of literal text and the field after it; the last pair may have None.
    """

    text: str
    pieces: tuple[tuple[str, str | None], ...]

    @property
    def names(self) -> list[str]:
        """The fields, in order."""
        return list(dict.fromkeys(name for _, name in self.pieces if name is not None))


@dataclass(frozen=True)
class Fields:
    """Which fields of a row are used.

    Attributes:
        text: the field of the text.
        template: joins several fields to a text, in place of ``text``.
        id: the field of the id. None: the position of the row in the input, from 0.
        keep: fields to write beside the vectors. None: all.
    """

    text: str = "text"
    template: Template | None = None
    id: str | None = None
    keep: tuple[str, ...] | None = ()

    @property
    def needed(self) -> list[str] | None:
        """The fields to read; None: all."""
        if self.keep is None:
            return None
        texts = self.template.names if self.template else [self.text]
        return list(dict.fromkeys([*texts, *([self.id] if self.id else []), *self.keep]))


def parse_template(text: str) -> Template:
    """Read a template such as ``"{title}: {body}"``. ``{{`` is a brace.

    Raises:
        InputError: the template is malformed, or names no field.
    """
    try:
        found = list(Formatter().parse(text))
    except ValueError as error:
        raise InputError(
            f"`text` '{text}' is not a template: {error}. Write for example '{{title}}: {{body}}'."
        ) from None
    for _, name, form, conversion in found:
        if name is not None and (not name or form or conversion):
            raise InputError(f"`text` '{text}' has a field without a plain name. Write for example {{title}}.")
    template = Template(text, tuple((literal, name) for literal, name, _, _ in found))
    if not template.names:
        raise InputError(f"`text` '{text}' names no field. Write for example '{{title}}: {{body}}'.")
    return template


def text_of(row: Mapping[str, Any], fields: Fields) -> str | Problem:
    """The text of a row, or why it has none."""
    if fields.template is None:
        return _text(row, fields.text)
    pieces = []
    for literal, name in fields.template.pieces:
        pieces.append(literal)
        if name is not None:
            value = _text(row, name, numbers=True)
            if isinstance(value, Problem):
                return value
            pieces.append(value)
    return "".join(pieces)


def id_of(row: Mapping[str, Any], name: str) -> str | int | Problem:
    """The id of a row, or why it has none."""
    if name not in row:
        return _missing(row, name, "--id-field")
    value = row[name]
    if isinstance(value, str):
        return value
    if not isinstance(value, int) or isinstance(value, bool):
        return Problem(f"has {_type(value)} as '{name}', and an id is a string or a whole number")
    return value if abs(value) <= _MOST_ID else Problem(f"has an id of more than 64 bits as '{name}'")


def _text(row: Mapping[str, Any], name: str, numbers: bool = False) -> str | Problem:
    if name not in row:
        return _missing(row, name, "--text" if numbers else "--text-field")
    value = row[name]
    if numbers and isinstance(value, int | float) and value == value and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        allowed = "a string or a number" if numbers else "a string"
        return Problem(f"has {_type(value)} as '{name}', which must be {allowed}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return Problem(f"has half of a surrogate pair in '{name}', which encodes no character")
    return value


def _missing(row: Mapping[str, Any], name: str, option: str) -> Problem:
    return Problem(
        f"has no '{name}'; it has {', '.join(map(str, row)) or 'no field'}", f"Name the field with {option}."
    )


def _type(value: Any) -> str:
    if value is None:
        return "null"
    return "NaN" if value != value else type(value).__name__
