"""From texts to vectors, a window of texts at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.runtime.loaded import LoadedTarget
from ese_deploy.runtime.options import EncodeSettings, Usage, cut_prefix
from ese_deploy.runtime.tokenize import TextTokenizer
from ese_deploy.runtime.vectors import check_vectors

__all__ = ["embed_texts", "look_up"]

# Texts tokenized and sorted at once: enough for batches of similar lengths, few enough to bound memory.
_WINDOW = 4096
# Far within the tolerance of `check_vectors`, which decides on other vectors.
_NEAR = 1e-4


def embed_texts(
    loaded: LoadedTarget, tokenizer: TextTokenizer, texts: Sequence[str], settings: EncodeSettings
) -> tuple[NDArray[np.float32], Usage]:
    """Embed texts with a loaded target.

    Args:
        loaded: the target.
        tokenizer: the bundle's tokenizer.
        texts: n texts, prompts included.
        settings: batches, progress bar, and the dimensions to keep.

    Returns:
        float32 [n, settings.dim], rows of norm 1 unless prefixes are not normalized, and the tokens that were read.

    Raises:
        InputError: a text has no token.
        EngineError: the engine failed.
    """
    vectors = np.empty((len(texts), settings.dim), np.float32)
    count = truncated = 0
    with _progress_bar(len(texts), settings.show_progress_bar) as advance:
        for start in range(0, len(texts), _WINDOW):
            tokens = tokenizer(texts[start : start + _WINDOW])
            count += int(tokens.lengths.sum())
            truncated += tokens.truncated
            window = loaded.embed(tokenizer, tokens, settings.batch, advance)
            vectors[start : start + _WINDOW] = cut_prefix(window, settings.dim, settings.normalize)
    return vectors, Usage(len(texts), count, truncated)


def look_up(loaded: LoadedTarget, tokenizer: TextTokenizer, text: str) -> tuple[NDArray[np.float32], Usage]:
    """Embed one text with a target of depth 0, without what batches need.

    Args:
        loaded: a target with a lookup.
        tokenizer: the bundle's tokenizer.
        text: the text, with its prompt.

    Returns:
        float32 [dim] of norm 1, and the tokens that were read.

    Raises:
        InputError: the text has no token.
        EngineError: the vector is not finite or zero.
    """
    assert loaded.lookup is not None
    ids, truncated = tokenizer.one(text)
    vector = loaded.lookup.embed_one(ids)
    if not abs(float(vector @ vector) - 1) < _NEAR:
        check_vectors(vector[None], 1, loaded.entry.dim, loaded.engine)
    if loaded.to_space is not None:
        vector = loaded.in_space(vector[None])[0]
    return vector, Usage(1, len(ids), int(truncated))


@contextmanager
def _progress_bar(total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Yields the function to call with the number of texts of each batch."""
    if not show:
        yield lambda _: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise InputError("`show_progress_bar=True` needs tqdm. Run: pip install tqdm") from None
    with tqdm(total=total, unit="text") as bar:
        yield bar.update
