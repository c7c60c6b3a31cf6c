"""The encoder: texts in, unit-norm vectors out, with nothing but an inference engine installed."""

import itertools
import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.engines import DEFAULT_ENGINE, Engine, load_engine, require_dtype
from ese_deploy.errors import InputError
from ese_deploy.runtime.embedding import EncodeOptions, embed_texts, resolve_batch
from ese_deploy.runtime.loaded import LoadedTarget, choose_entries, load_target
from ese_deploy.runtime.precision import Precision, check_precision, needs_ranges, quantize
from ese_deploy.runtime.prompts import DOCUMENT_PROMPTS, QUERY_PROMPTS, find_prompt
from ese_deploy.runtime.similarity import cosine_similarity
from ese_deploy.runtime.tokenize import TextTokenizer, iterate_texts, list_texts, load_tokenizer
from ese_deploy.system.threads import available_threads
from ese_deploy.target import Target

__all__ = ["EncodeOptions", "Encoder"]

_log = logging.getLogger(__name__)

# float32, int8 or uint8, depending on the precision.
Embeddings = NDArray[Any]


class Encoder:
    """Embeds texts with a target of a bundle. Open it with :meth:`open`. Several threads may use it at once.

    Queries can have a target of their own: a shallow one, which is fast, for an index that a deep one has made.
    :meth:`encode_query` then uses the query target, and all other methods use the document target.

    Example:
        >>> encoder = Encoder.open("exports/minilm", target="3x128")
        >>> vectors = encoder.encode(["A cat sat.", "Ein Hund lief."])
        >>> vectors.shape
        (2, 128)

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

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        target: Target | str | None = None,
        *,
        query_target: Target | str | None = None,
        document_target: Target | str | None = None,
        engine: str | Engine | None = None,
        threads: int | None = None,
        log_truncated: bool = True,
        profile: str | None = None,
    ) -> "Encoder":
        """Open a bundle and load a target, or one for queries and one for documents.

        Args:
            bundle: the folder of the bundle, or an open bundle.
            target: such as ``"3x128"``. Default: the deepest and widest fp32 target.
            query_target: the target for queries, such as ``"3x128"``. It goes with ``document_target``, and both have
                one dim and one embedding space.
            document_target: the target for documents, such as ``"6x128"``.
            engine: the inference engine. Default: ``"onnxruntime"``.
            threads: threads that compute. Default: every core that the process may use.
            log_truncated: log a warning when the first text is truncated. :attr:`truncated_texts` counts them anyway.
            profile: no longer supported. Resolve a budget profile with :func:`ese_deploy.choose.resolve_profile`, and
                pass its target and engine.

        Raises:
            BundleError: the bundle is missing, damaged or unsafe.
            InputError: the bundle does not contain a target, vectors of the two targets are not comparable, or
                ``threads`` is below 1.
            EngineError: the engine is not installed, does not run the target's dtype, or cannot load the graph.
        """
        if profile is not None:
            raise InputError(
                f"Encoder.open takes no profile, got '{profile}'. Resolve it first: found = ese_deploy.choose."
                "resolve_profile(bundle, profile); Encoder.open(bundle, found.target, engine=found.engine)"
            )
        if threads is not None and threads < 1:
            raise InputError(f"`threads` must be at least 1, got {threads}.")
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        documents, queries = choose_entries(opened, target, query_target, document_target)
        engine = engine or DEFAULT_ENGINE
        # Before the engine is loaded: the error must not advise to install an engine that does not run the target.
        kind = engine.partition(":")[0] if isinstance(engine, str) else engine.name
        for entry in (queries, documents):
            require_dtype(kind, str(entry.target), entry.dtype)
        loaded = load_engine(engine) if isinstance(engine, str) else engine
        count = threads or available_threads()
        first = load_target(opened, documents, loaded, count)
        second = None if queries == documents else load_target(opened, queries, loaded, count)
        return cls(opened, load_tokenizer(opened), first, second, log_truncated=log_truncated)

    def __repr__(self) -> str:
        queries = "" if self._queries is self._documents else f", query_target='{self.query_target}'"
        path, engine = str(self._bundle.path), self._documents.engine
        return f"Encoder({path!r}, target='{self.target}'{queries}, engine='{engine}')"

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
        return self._documents.entry.space

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

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        show_progress_bar: bool = False,
        precision: Precision = "float32",
    ) -> Embeddings:
        """Embed one text or several.

        Args:
            sentences: a text, or a sequence of texts.
            prompt_name: name of a prompt of the model that is put before each text.
            prompt: the prompt itself. It has precedence over ``prompt_name``.
            batch_size: most texts of a batch. Default: depends on the engine.
            batch_tokens: most tokens of a batch, padding included; usually the limit that applies. Default: depends on
                the engine.
            show_progress_bar: show a progress bar on standard error.
            precision: ``float32``, or for a smaller index ``int8``, ``uint8``, ``binary`` (stored as int8) or
                ``ubinary`` (stored as uint8), as in sentence-transformers. ``int8`` and ``uint8`` use the ranges that
                the bundle contains; see :func:`ese_deploy.runtime.precision.quantize`.

        Returns:
            float32 [dim] for one text, [n, dim] for several, rows of norm 1 in the order of the texts. With another
            precision rows of int8 or uint8; ``binary`` and ``ubinary`` pack eight components into a number.

        Raises:
            InputError: a text is not a ``str``, contains half of a surrogate pair or has no token; the prompt's name or
                the precision is unknown; a limit is below 1; or the bundle has no ranges for the precision.
            EngineError: the engine failed.
        """
        options = EncodeOptions(
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            show_progress_bar=show_progress_bar,
            precision=precision,
        )
        return self._embed(self._documents, sentences, find_prompt(self.manifest, prompt_name, prompt), **options)

    def encode_query(
        self,
        sentences: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Embeddings:
        """Embed search queries with the query target and the model's prompt ``query``, if it has one.

        Arguments, result and errors are those of :meth:`encode`.
        """
        prefix = find_prompt(self.manifest, prompt_name, prompt, QUERY_PROMPTS)
        return self._embed(self._queries, sentences, prefix, **options)

    def encode_document(
        self,
        sentences: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Embeddings:
        """Embed documents with the first of the prompts ``document``, ``passage`` and ``corpus`` that the model has.

        Arguments, result and errors are those of :meth:`encode`.
        """
        prefix = find_prompt(self.manifest, prompt_name, prompt, DOCUMENT_PROMPTS)
        return self._embed(self._documents, sentences, prefix, **options)

    def encode_iter(
        self,
        sentences: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        window: int = 1024,
        **options: Unpack[EncodeOptions],
    ) -> Iterator[Embeddings]:
        """Embed a stream of texts in bounded memory. The longest text takes about 100 bytes a character.

        Args:
            sentences: any iterable of texts. It is read ``window`` texts at a time.
            prompt_name: as in :meth:`encode`.
            prompt: as in :meth:`encode`.
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
        prefix = find_prompt(self.manifest, prompt_name, prompt)
        texts = iterate_texts(sentences)

        def embed() -> Iterator[Embeddings]:
            first = 0
            while chunk := list(itertools.islice(texts, window)):
                yield from self._embed(self._documents, chunk, prefix, first=first, **options)
                first += len(chunk)

        return embed()

    def similarity(
        self, first: ArrayLike, second: ArrayLike, *, second_encoder: "Encoder | None" = None
    ) -> NDArray[np.float32]:
        """Cosine of each vector of ``first`` with each of ``second``.

        Args:
            first: vectors of this encoder, [n, dim] or [dim].
            second: vectors to compare with, [m, dim] or [dim].
            second_encoder: the encoder that made ``second``, if it is another one.

        Returns:
            float32 [n, m].

        Raises:
            InputError: the dims differ, vectors are quantized, or the vectors are of different embedding spaces.
        """
        if second_encoder is not None and second_encoder.space != self.space:
            raise InputError(
                f"Vectors of target {self.target} (embedding space {self.space}) and of target "
                f"{second_encoder.target} (embedding space {second_encoder.space}) are not comparable. Embed both with "
                "one target."
            )
        return cosine_similarity(first, second, self.target)

    def _embed(
        self,
        loaded: LoadedTarget,
        sentences: str | Sequence[str],
        prefix: str,
        *,
        first: int = 0,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        show_progress_bar: bool = False,
        precision: Precision = "float32",
    ) -> Embeddings:
        single = isinstance(sentences, str)
        texts = list_texts(sentences, first)
        batch = resolve_batch(loaded.batch, batch_size, batch_tokens)
        check_precision(precision)
        # Queries use the ranges of documents, or their components would not be comparable.
        ranges = self._documents.ranges if needs_ranges(precision) else None
        prompted = [prefix + text for text in texts]
        vectors, truncated = embed_texts(loaded, self._tokenizer, prompted, batch, show_progress_bar)
        self._count_truncated(truncated)
        embeddings = quantize(vectors, precision, ranges)
        return embeddings[0] if single else embeddings

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
