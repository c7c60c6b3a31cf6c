"""How a file of lines is written: its encoding, and what separates the columns of a ``.csv``."""

from dataclasses import dataclass

from ese_deploy.errors import InputError
from ese_deploy.texts.lines import check_encoding

__all__ = ["SEPARATORS", "Dialect", "dialect_of"]

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
"""What can separate columns, by name."""


@dataclass(frozen=True)
class Dialect:
    """Encoding and separator, as a command's options say; messages then name these options.

    Attributes:
        encoding: of lines.
        separator: between the columns of a ``.csv``; None: a comma, and a header that has none is refused.
    """

    encoding: str = "utf-8"
    separator: str | None = None


def dialect_of(encoding: str = "utf-8", separator: str | None = None) -> Dialect:
    """Check the options.

    Args:
        encoding: a name that Python knows, such as ``cp1252``.
        separator: one of :data:`SEPARATORS`, by name or as the character.

    Raises:
        InputError: the encoding or the separator is unknown.
    """
    check_encoding(encoding)
    if separator is None:
        return Dialect(encoding)
    found = SEPARATORS.get(separator, separator)
    if found not in SEPARATORS.values():
        raise InputError(f"Unknown `separator` '{separator}'. Choose one of: {', '.join(SEPARATORS)}.")
    return Dialect(encoding, found)
