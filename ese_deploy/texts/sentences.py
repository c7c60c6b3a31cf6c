"""Splitting longer texts into sentences and groups of sentences."""

import re
from collections.abc import Iterable, Iterator

__all__ = ["sentence_groups", "with_sentence_groups"]

# The end of a sentence and the space after it. Some scripts write no spaces and have marks of their own.
_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।])\s*")
_MIN_SENTENCES, _MIN_CHARACTERS = 3, 16


def sentence_groups(text: str) -> list[str]:
    """Split a text into its sentences, its halves and its thirds.

    A data set with few passages then gives many texts, and the words of the passages appear in texts of every length.

    Returns:
        Distinct parts of at least 16 characters, without the text itself. Empty for a text of fewer than 3 sentences.
    """
    whole = text.strip()
    starts = [0, *(end.end() for end in _END.finditer(whole) if end.end() < len(whole)), len(whole)]
    count = len(starts) - 1
    if count < _MIN_SENTENCES:
        return []
    sizes = sorted({1, -(-count // 2), -(-count // 3)})
    parts = [
        whole[starts[first] : starts[min(first + size, count)]].strip()
        for size in sizes
        for first in range(0, count, size)
    ]
    return [part for part in dict.fromkeys(parts) if len(part) >= _MIN_CHARACTERS and part != whole]


def with_sentence_groups(texts: Iterable[str]) -> Iterator[str]:
    """Yield each text, followed by its sentence groups."""
    for text in texts:
        yield text
        yield from sentence_groups(text)
