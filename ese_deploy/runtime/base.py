"""Embedding texts with loaded targets."""

import itertools
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError
from ese_deploy.runtime.embedding import embed_texts, look_up
from ese_deploy.runtime.loaded import LoadedTarget
from ese_deploy.runtime.options import EncodeOptions, EncodeSettings, Usage, convert, resolve_options
from ese_deploy.runtime.precision import needs_ranges, quantize
from ese_deploy.runtime.prompts import DOCUMENT_PROMPTS, QUERY_PROMPTS, find_prompt
from ese_deploy.runtime.similarity import check_comparable, cosine_similarity
from ese_deploy.runtime.tokenize import TextTokenizer, iterate_texts, list_texts
from ese_deploy.target import Target

__all__ = ["BaseEncoder"]

_log = logging.getLogger(__name__)

# float32, int8 or uint8, depending on the precision. With `convert_to_tensor` a tensor, which the runtime cannot name.
Embeddings = NDArray[Any]
Texts = str | Sequence[str]
Result = Embeddings | tuple[Embeddings, Usage]


class BaseEncoder:
    """Embeds texts with targets that are loaded. Several threads may use it at once.

    Args:
        bundle: the bundle.
        tokenizer: its tokenizer.
        documents: the target that embeds texts.
        queries: the target that embeds queries, with the dim and embedding space of ``documents``. None: the same.
        log_truncated: log a warning when the first text is truncated.
    """

    def __init__(
        self,
        bundle: Bundle,
        tokenizer: TextTokenizer,
        documents: LoadedTarget,
        queries: LoadedTarget | None = None,
        *,
        log_truncated: bool = True,
    ) -> None:
        self._bundle = bundle
        self._tokenizer = tokenizer
        self._documents = documents
        self._queries = queries or documents
        self._log_truncated = log_truncated
        self._lock = threading.Lock()
        self._truncated = 0

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self._bundle

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self._bundle.manifest

    @property
    def target(self) -> Target:
        """The target that embeds texts, and queries unless they have their own."""
        return self._documents.entry.target

    @property
    def query_target(self) -> Target:
        """The target that embeds queries."""
        return self._queries.entry.target

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._documents.entry.dim

    @property
    def space(self) -> str:
        """Name of the embedding space. Only vectors of one space are comparable."""
        return self._documents.space

    @property
    def max_seq_length(self) -> int:
        """Longest input in tokens, special tokens included."""
        return self.manifest.max_seq_length

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name."""
        return self.manifest.prompts

    @property
    def truncated_texts(self) -> int:
        """How many texts were longer than :attr:`max_seq_length` and were truncated, since the encoder was opened."""
        return self._truncated

    def get_sentence_embedding_dimension(self) -> int:
        """Dimensions of a vector, as sentence-transformers names it."""
        return self.dim

    @overload
    def encode(
        self, sentences: Texts, *, return_usage: Literal[False] = False, **options: Unpack[EncodeOptions]
    ) -> Embeddings: ...

    @overload
    def encode(
        self, sentences: Texts, *, return_usage: Literal[True], **options: Unpack[EncodeOptions]
    ) -> tuple[Embeddings, Usage]: ...

    def encode(self, sentences: Texts, *, return_usage: bool = False, **options: Unpack[EncodeOptions]) -> Result:
        """Embed one text or several.

        Args:
            sentences: a text, or a sequence of texts.
            return_usage: also return how many tokens were read, and how many texts were truncated.
            **options: each is optional, and those of sentence-transformers mean the same as there.

                - ``prompt_name``: name of a prompt of the model that is put before each text.
                - ``prompt``: the prompt itself. It has precedence over ``prompt_name``.
                - ``batch_size``: most texts of a batch. Default: depends on the engine.
                - ``batch_tokens``: most tokens of a batch, padding included; usually the limit that applies. Default:
                  depends on the engine.
                - ``show_progress_bar``: show a progress bar on standard error.
                - ``precision``: ``float32``, or for a smaller index ``int8``, ``uint8``, ``binary`` (stored as int8) or
                  ``ubinary`` (stored as uint8). ``int8`` and ``uint8`` use the ranges that the bundle contains; see
                  :func:`ese_deploy.runtime.precision.quantize`.
                - ``dim`` or ``truncate_dim``: keep this many components. The result equals that of the target of the
                  same depth and this dim. A prefix that the model was not trained for keeps less of the meaning.
                - ``normalize_embeddings``: False leaves a prefix as it was cut. Whole vectors always have norm 1.
                - ``convert_to_numpy``: False returns a list of PyTorch tensors.
                - ``convert_to_tensor``: True returns one PyTorch tensor.

        Returns:
            float32 [dim] for one text, [n, dim] for several, rows of norm 1 in the order of the texts. With another
            precision rows of int8 or uint8; ``binary`` and ``ubinary`` pack eight components into a number.
            With ``return_usage`` these vectors and a :class:`Usage`.

        Raises:
            InputError: a text is not a ``str``, contains half of a surrogate pair or has no token; the prompt's name or
                the precision is unknown; a limit is below 1; the target has no such prefix; or the bundle has no ranges
                for the precision.
            EngineError: the engine failed.
        """
        return self._embed(self._documents, sentences, return_usage, options)

    @overload
    def encode_query(
        self, sentences: Texts, *, return_usage: Literal[False] = False, **options: Unpack[EncodeOptions]
    ) -> Embeddings: ...

    @overload
    def encode_query(
        self, sentences: Texts, *, return_usage: Literal[True], **options: Unpack[EncodeOptions]
    ) -> tuple[Embeddings, Usage]: ...

    def encode_query(self, sentences: Texts, *, return_usage: bool = False, **options: Unpack[EncodeOptions]) -> Result:
        """Embed search queries with the query target and the model's prompt ``query``, if it has one.

        Arguments, result and errors are those of :meth:`encode`.
        """
        return self._embed(self._queries, sentences, return_usage, options, QUERY_PROMPTS)

    @overload
    def encode_document(
        self, sentences: Texts, *, return_usage: Literal[False] = False, **options: Unpack[EncodeOptions]
    ) -> Embeddings: ...

    @overload
    def encode_document(
        self, sentences: Texts, *, return_usage: Literal[True], **options: Unpack[EncodeOptions]
    ) -> tuple[Embeddings, Usage]: ...

    def encode_document(
        self, sentences: Texts, *, return_usage: bool = False, **options: Unpack[EncodeOptions]
    ) -> Result:
        """Embed documents with the first of the prompts ``document``, ``passage`` and ``corpus`` that the model has.

        Arguments, result and errors are those of :meth:`encode`.
        """
        return self._embed(self._documents, sentences, return_usage, options, DOCUMENT_PROMPTS)

    def encode_iter(
        self, sentences: Iterable[str], *, window: int = 1024, **options: Unpack[EncodeOptions]
    ) -> Iterator[Embeddings]:
        """Embed a stream of texts in bounded memory. The longest text takes about 100 bytes a character.

        Args:
            sentences: any iterable of texts. It is read ``window`` texts at a time.
            window: texts that are sorted by length and embedded together, at least 1.
            **options: as in :meth:`encode`.

        Returns:
            A vector for each text, in order: float32 [dim], or as ``precision`` says.

        Raises:
            InputError: ``window`` is below 1, or ``sentences`` is a single text; later the errors of :meth:`encode`.
        """
        if window < 1:
            raise InputError(f"`window` must be at least 1, got {window}.")
        if isinstance(sentences, str):
            raise InputError("encode_iter takes an iterable of texts, got one text. Pass it to encode.")
        settings = resolve_options(options, self._documents.batch, self.dim)
        prefix = find_prompt(self.manifest, settings.prompt_name, settings.prompt)
        texts = iterate_texts(sentences)

        def embed() -> Iterator[Embeddings]:
            first = 0
            while chunk := list(itertools.islice(texts, window)):
                vectors, _ = self._run(self._documents, list_texts(chunk, first), prefix, settings)
                yield from convert(vectors, settings)
                first += len(chunk)

        return embed()

    def tokenize(self, sentences: Texts) -> dict[str, NDArray[np.int64]]:
        """The inputs of the graph: token ids with special tokens, truncated, and padded to the longest text.

        Returns:
            For each input, such as ``input_ids`` and ``attention_mask``, int64 [n, longest].

        Raises:
            InputError: there is no text, or a text is not a ``str`` or has no token.
        """
        texts = list_texts(sentences)
        if not texts:
            raise InputError("tokenize needs at least one text, got none.")
        return self._tokenizer.collate(self._tokenizer(texts).encodings, self._documents.streams.inputs)

    def similarity(
        self, first: ArrayLike, second: ArrayLike, *, second_encoder: "BaseEncoder | None" = None
    ) -> NDArray[np.float32]:
        """Cosine of each vector of ``first`` with each of ``second``.

        Args:
            first: vectors of this encoder, [n, dim] or [dim].
            second: vectors to compare with, [m, dim] or [dim].
            second_encoder: the encoder that made ``second``, if it is another one.

        Returns:
            float32 [n, m].

        Raises:
            InputError: the dims differ or exceed those of the target, vectors are quantized, or they are of different
                embedding spaces.
        """
        if second_encoder is not None:
            check_comparable(self, second_encoder)
        return cosine_similarity(first, second, self.target)

    def _embed(
        self,
        loaded: LoadedTarget,
        sentences: Texts,
        return_usage: bool,
        options: EncodeOptions,
        role: Sequence[str] = (),
    ) -> Result:
        if loaded.lookup is not None and not options and isinstance(sentences, str):
            (text,) = list_texts(sentences)
            vector, usage = look_up(loaded, self._tokenizer, find_prompt(self.manifest, None, None, role) + text)
            self._count_truncated(usage.truncated)
            return (vector, usage) if return_usage else vector
        settings = resolve_options(options, loaded.batch, loaded.entry.dim)
        prefix = find_prompt(self.manifest, settings.prompt_name, settings.prompt, role)
        embeddings, usage = self._run(loaded, list_texts(sentences), prefix, settings)
        converted: Embeddings = convert(embeddings[0] if isinstance(sentences, str) else embeddings, settings)
        return (converted, usage) if return_usage else converted

    def _run(
        self, loaded: LoadedTarget, texts: list[str], prefix: str, settings: EncodeSettings
    ) -> tuple[Embeddings, Usage]:
        # Queries use the ranges of documents, or their components would not be comparable.
        ranges = self._documents.ranges(settings.dim) if needs_ranges(settings.precision) else None
        vectors, usage = embed_texts(loaded, self._tokenizer, [prefix + text for text in texts], settings)
        self._count_truncated(usage.truncated)
        return quantize(vectors, settings.precision, ranges), usage

    def _count_truncated(self, count: int) -> None:
        if not count:
            return
        with self._lock:
            first = self._truncated == 0
            self._truncated += count
        if first and self._log_truncated:
            _log.warning(
                "Texts longer than %d tokens are truncated. Encoder.truncated_texts counts them.", self.max_seq_length
            )
