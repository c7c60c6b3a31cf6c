"""Parts of longer texts, as texts of their own."""

import re
from collections.abc import Iterable, Iterator

__all__ = ["spans", "with_spans"]

# An end of a sentence and the blank behind it; scripts that write no blanks have ends of their own.
_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।])\s*")
_LEAST_SENTENCES, _LEAST_LENGTH = 3, 16


def spans(text: str) -> list[str]:
    """The sentences of a text, its halves and its thirds; none of a text of one or two sentences.

    A collection has few passages, and each is made of many texts: what is fitted on both knows the words of the
    passages at every length.

    Returns:
        Parts of 16 characters and more, each once, without the text itself.
    """
    whole = text.strip()
    starts = [0, *(end.end() for end in _END.finditer(whole) if end.end() < len(whole)), len(whole)]
    count = len(starts) - 1
    if count < _LEAST_SENTENCES:
        return []
    sizes = sorted({1, -(-count // 2), -(-count // 3)})
    parts = [
        whole[starts[first] : starts[min(first + size, count)]].strip()
        for size in sizes
        for first in range(0, count, size)
    ]
    return [part for part in dict.fromkeys(parts) if len(part) >= _LEAST_LENGTH and part != whole]


def with_spans(texts: Iterable[str]) -> Iterator[str]:
    """Every text, and behind it its spans."""
    for text in texts:
        yield text
        yield from spans(text)
