"""From texts to vectors: windows of texts, and the options that control batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ese_deploy.engines import Batch
from ese_deploy.errors import InputError
from ese_deploy.runtime.loaded import LoadedTarget
from ese_deploy.runtime.precision import Precision
from ese_deploy.runtime.tokenize import TextTokenizer

__all__ = ["EncodeOptions", "embed_texts", "resolve_batch"]

# Texts tokenized and sorted at once: enough for batches of similar lengths, few enough to bound memory.
_WINDOW = 4096


class EncodeOptions(TypedDict, total=False):
    """How texts are batched and vectors returned; see :meth:`ese_deploy.runtime.encoder.Encoder.encode`."""

    batch_size: int | None
    batch_tokens: int | None
    show_progress_bar: bool
    precision: Precision


def resolve_batch(default: Batch, size: int | None, tokens: int | None) -> Batch:
    """The batch that the user chose, with the engine's defaults for the rest.

    Raises:
        InputError: a limit is below 1.
    """
    batch = Batch(default.size if size is None else size, default.tokens if tokens is None else tokens)
    if batch.size < 1 or batch.tokens < 1:
        raise InputError(f"`batch_size` and `batch_tokens` must be at least 1, got {batch.size} and {batch.tokens}.")
    return batch


def embed_texts(
    loaded: LoadedTarget, tokenizer: TextTokenizer, texts: Sequence[str], batch: Batch, show_progress_bar: bool = False
) -> tuple[NDArray[np.float32], int]:
    """Embed texts with a loaded target.

    Args:
        loaded: the target.
        tokenizer: the bundle's tokenizer.
        texts: n texts, prompts included.
        batch: most rows and tokens of a batch.
        show_progress_bar: show a progress bar on standard error.

    Returns:
        float32 [n, dim], rows of norm 1, and how many texts were truncated.

    Raises:
        InputError: a text has no token.
        EngineError: the engine failed.
    """
    vectors = np.empty((len(texts), loaded.entry.dim), np.float32)
    truncated = 0
    with _progress_bar(len(texts), show_progress_bar) as advance:
        for start in range(0, len(texts), _WINDOW):
            tokens = tokenizer(texts[start : start + _WINDOW])
            truncated += tokens.truncated
            vectors[start : start + _WINDOW] = loaded.embed(tokenizer, tokens, batch, advance)
    return vectors, truncated


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
