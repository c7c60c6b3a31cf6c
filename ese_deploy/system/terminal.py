"""Text of strangers on a terminal."""

import re

__all__ = ["visible"]

# Control characters but tab and newline, and the marks that change the direction of text.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Escape characters that would move the cursor, change colors or reorder the text, such as ``\x1b``."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
