"""The texts of a bench, by length."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ese_deploy.bench.results import TextSet
from ese_deploy.runtime.tokenize import TextTokenizer
from ese_deploy.texts.reader import open_texts
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus

__all__ = ["LENGTHS", "BenchTexts", "bench_texts", "describe_texts"]

LENGTHS = ("query", "sentence", "passage", "mixed")


@dataclass(frozen=True)
class BenchTexts:
    """Texts to embed.

    Attributes:
        name: what they are.
        lengths: for each length its texts. The sample corpus has queries, sentences, passages and all of them mixed; a
            file has one length named ``file``.
    """

    name: str
    lengths: dict[str, list[str]]


def bench_texts(path: Path | None = None, field: str = "text") -> BenchTexts:
    """The sample corpus, or the texts of a file.

    Args:
        path: a ``.txt`` or ``.jsonl`` file.
        field: the field of a JSON line that contains the text.

    Raises:
        InputError: the file is missing, of another kind, or a line of it is broken.
    """
    if path is not None:
        file = open_texts(path, field)
        file.check()
        return BenchTexts(path.name, {"file": [row.text for row in file]})
    kinds = {length: [item.text for item in sample_corpus() if item.kind == length] for length in LENGTHS[:-1]}
    return BenchTexts(SAMPLE_CORPUS_NAME, {**kinds, LENGTHS[-1]: [item.text for item in sample_corpus()]})


def describe_texts(texts: Sequence[str], tokenizer: TextTokenizer) -> TextSet:
    """Count the tokens of texts."""
    tokens = tokenizer(texts)
    lengths = tokens.lengths
    return TextSet(
        texts=len(texts),
        tokens=int(lengths.sum()),
        median=int(np.median(lengths)),
        longest=int(lengths.max()),
        cut=tokens.truncated,
        sha256=hashlib.sha256("\0".join(texts).encode()).hexdigest(),
    )
