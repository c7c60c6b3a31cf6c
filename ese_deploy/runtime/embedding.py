"""From texts to vectors, a window of texts at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.runtime.loaded import LoadedTarget
from ese_deploy.runtime.options import EncodeSettings, Usage, cut_prefix
from ese_deploy.runtime.tokenize import TextTokenizer

__all__ = ["embed_texts"]

# Texts tokenized and sorted at once: enough for batches of similar lengths, few enough to bound memory.
_WINDOW = 4096


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
