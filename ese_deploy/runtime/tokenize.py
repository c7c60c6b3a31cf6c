"""From texts to padded batches of token ids."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ese_deploy.bundle.reader import Bundle, read_tokenizer
from ese_deploy.errors import BundleError, InputError

__all__ = ["TextTokenizer", "Tokens", "explain_tokenizer_error", "iterate_texts", "list_texts", "load_tokenizer"]

# Characters tokenized at once. A long text needs about 100 bytes a character until it is truncated.
_PIECE = 1 << 20
_PANIC = "PanicException"
_LONGEST_REASON = 200


@dataclass(frozen=True)
class Tokens:
    """Token ids of several texts.

    Attributes:
        encodings: one per text, truncated to the longest input.
        lengths: tokens of each, int64 [n].
        truncated: how many texts were truncated.
    """

    encodings: list[Any]
    lengths: NDArray[np.int64]
    truncated: int


@dataclass(frozen=True)
class _Cut:
    """An encoding without the tokens that were truncated."""

    ids: list[int]
    type_ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TextTokenizer:
    """The tokenizer of a bundle. Several threads may use it at once.

    Attributes:
        tokenizer: truncates to ``max_length`` and does not pad.
        max_length: longest input in tokens, special tokens included.
        pad_id: id of the padding token.
        pad_type_id: token type of padding.
    """

    tokenizer: Tokenizer
    max_length: int
    pad_id: int
    pad_type_id: int

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize texts with special tokens, and truncate long ones.

        A text is tokenized completely before it is truncated, which needs about 100 bytes a character.

        Raises:
            InputError: a text has no token. That happens if the tokenizer adds no special tokens.
        """
        encodings: list[Any] = []
        truncated = 0
        for piece in _pieces(texts):
            for encoding in self._encode(piece):
                cut = bool(encoding.overflowing)
                truncated += cut
                encodings.append(_Cut(encoding.ids, encoding.type_ids) if cut else encoding)
        lengths = np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings))
        if not lengths.all():
            raise _no_token(texts[int(lengths.argmin())])
        return Tokens(encodings, lengths, truncated)

    def one(self, text: str) -> tuple[list[int], bool]:
        """Token ids of one text, and whether it was truncated; see :meth:`__call__`.

        Raises:
            InputError: the text has no token.
        """
        (encoding,) = self._encode([text])
        ids: list[int] = encoding.ids
        if not ids:
            raise _no_token(text)
        return ids, bool(encoding.overflowing)

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        """Tokenize texts, as ``encode_batch_fast`` does.

        Raises:
            BundleError: the library fails, which texts alone cannot bring about.
        """
        with explain_tokenizer_error("The bundle's tokenizer failed on a text"):
            found: list[Any] = self.tokenizer.encode_batch_fast(texts)
        return found

    def collate(self, encodings: Sequence[Any], names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Pad encodings on the right to the longest of them.

        Args:
            encodings: from :class:`Tokens`.
            names: the graph's inputs.

        Returns:
            For each name an int64 array [batch, sequence].
        """
        shape = (len(encodings), max(len(encoding) for encoding in encodings))
        ids = np.full(shape, self.pad_id, np.int64)
        mask = np.zeros(shape, np.int64)
        types = np.full(shape, self.pad_type_id, np.int64)
        for row, encoding in enumerate(encodings):
            length = len(encoding)
            ids[row, :length] = encoding.ids
            mask[row, :length] = 1
            types[row, :length] = encoding.type_ids
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: arrays[name] for name in names}


def _no_token(text: str) -> InputError:
    return InputError(f"The text {text!r} has no token for this model, and so no vector. Remove such texts.")


def _pieces(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Runs of texts of at most ``_PIECE`` characters, or of one text."""
    start = characters = 0
    for end, text in enumerate(texts):
        characters += len(text)
        if characters > _PIECE and end > start:
            yield texts[start:end]
            start, characters = end, len(text)
    if start < len(texts):
        yield texts[start:]


def list_texts(sentences: str | Iterable[str], first: int = 0) -> list[str]:
    """One text or several as a list.

    Args:
        sentences: a text, or texts.
        first: the position of the first one, for the message.

    Raises:
        InputError: an item is not a ``str``, or contains half of a surrogate pair.
    """
    texts = [sentences] if isinstance(sentences, str) else list(iterate_texts(sentences))
    for position, text in enumerate(texts, first):
        if not isinstance(text, str):
            raise InputError(f"Texts must be str, got {type(text).__name__} at position {position}.")
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"The text at position {position} has {text[error.start]!r} at character {error.start}, half of a "
                "surrogate pair. Decode the text again, or replace the character."
            ) from None
    return texts


def iterate_texts(sentences: Iterable[str]) -> Iterator[str]:
    """An iterator over several texts.

    Raises:
        InputError: ``sentences`` is not iterable, or is a table or mapping, whose names would be taken for texts.
    """
    if isinstance(sentences, Mapping | bytes | bytearray) or hasattr(sentences, "columns"):
        raise InputError(
            f"`sentences` must be a str or a sequence of str, got {type(sentences).__name__}. Of a table, pass one "
            'column, such as table["text"].'
        )
    try:
        return iter(sentences)
    except TypeError:
        raise InputError(f"`sentences` must be a str or an iterable of str, got {type(sentences).__name__}.") from None


def load_tokenizer(bundle: Bundle) -> TextTokenizer:
    """Load a bundle's tokenizer.

    Raises:
        BundleError: the file was changed, or the library cannot read it.
    """
    entry, path = bundle.manifest.tokenizer, bundle.path / bundle.manifest.tokenizer.file
    data = read_tokenizer(bundle)
    max_length = bundle.manifest.max_seq_length
    with explain_tokenizer_error(f"{path} cannot be read as a tokenizer"):
        tokenizer = Tokenizer.from_buffer(data)
        tokenizer.no_padding()
        side = (tokenizer.truncation or {}).get("direction", "right")
        tokenizer.enable_truncation(max_length, direction=side)
    return TextTokenizer(tokenizer, max_length, entry.pad_id, entry.pad_type_id)


@contextmanager
def explain_tokenizer_error(what: str) -> Iterator[None]:
    """Raise any error of the tokenizers library as a ``BundleError``.

    A panic of the library is no ``Exception``, so that it would pass every handler of errors.

    Raises:
        BundleError: it says ``what`` and the reason.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise BundleError(f"{what}: {reason}. Export the bundle again.") from error
