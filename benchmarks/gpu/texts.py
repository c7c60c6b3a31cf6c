"""Texts and token ids of a given length."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.texts.sample import sample_corpus

__all__ = ["MIXED", "token_batch", "words"]

MIXED = 0
"""Stands for texts of mixed lengths: those of the sample corpus."""

# [CLS] and [SEP] stand in each text; ids below 5 are special tokens.
_SPECIAL_TOKENS, _FIRST_WORD = 2, 5


def words(model: Path, length: int, count: int) -> list[str]:
    """Texts of exactly ``length`` tokens, special tokens included, or of mixed lengths.

    Args:
        model: the folder with ``tokenizer.json``.
        length: tokens of a text, or :data:`MIXED`.
        count: texts.
    """
    corpus = [item.text for item in sample_corpus()]
    if length == MIXED:
        return list(itertools.islice(itertools.cycle(corpus), count))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    sizes = {word: len(tokenizer.encode(word, add_special_tokens=False).ids) for word in set(" ".join(corpus).split())}
    by_size = {size: sorted(word for word in sizes if sizes[word] == size) for size in set(sizes.values())}
    chance = random.Random(0)
    # In proportion to their number in the corpus, so that a text has as many characters as a real one.
    ordered = sorted(sizes)

    def text() -> str:
        found: list[str] = []
        left = length - _SPECIAL_TOKENS
        while left:
            word = chance.choice(ordered)
            if sizes[word] > left:
                word = chance.choice(by_size[1])
            found.append(word)
            left -= sizes[word]
        return " ".join(found)

    return [text() for _ in range(count)]


def token_batch(batch: int, length: int, names: list[str]) -> dict[str, NDArray[np.int64]]:
    """Random token ids without padding, int64 [batch, length], for the inputs of a graph."""
    ids: NDArray[Any] = np.random.default_rng(0).integers(_FIRST_WORD, 1000, (batch, length))
    every = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: every[name] for name in names}
