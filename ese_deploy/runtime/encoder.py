"""The encoder: texts in, unit-norm vectors out, with nothing but an inference engine."""

import itertools
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.engines import DEFAULT_ENGINE, Batch, Engine, load_engine, require_dtype
from ese_deploy.errors import InputError
from ese_deploy.runtime.loaded import LoadedTarget, choose_entries, load_target
from ese_deploy.runtime.precision import Precision, check_precision, needs_ranges, quantize
from ese_deploy.runtime.tokenize import TextTokenizer, iterate_texts, list_texts, load_tokenizer
from ese_deploy.system.threads import available_threads
from ese_deploy.target import Target

__all__ = ["Encoder"]

# Texts tokenised and sorted at once: enough for tight batches, few enough to bound memory.
_WINDOW = 4096
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")

Vectors = NDArray[np.float32]
# float32, int8 or uint8, as the precision says.
Embeddings = NDArray[Any]


class EncodeOptions(TypedDict, total=False):
    """How texts are batched and vectors returned; see :meth:`Encoder.encode`."""

    batch_size: int
    batch_tokens: int
    show_progress_bar: bool
    precision: Precision


class Encoder:
    """Embeds texts with one target of a bundle; open it with :meth:`open`. Safe to use from many threads.

    Queries may be embedded with another target than documents: a shallow one, which answers fast, for an index that a
    deep one made. :meth:`encode_query` then uses the one, all other methods the other.

    Example:
        >>> encoder = Encoder.open("exports/minilm", target="3x128")
        >>> vectors = encoder.encode(["A cat sat.", "Ein Hund lief."])
        >>> vectors.shape
        (2, 128)

    Args:
        bundle: the bundle.
        tokenizer: its tokenizer.
        documents: the target that embeds texts.
        queries: the target that embeds queries, of the same dim and space; None: the same.
    """

    def __init__(
        self, bundle: Bundle, tokenizer: TextTokenizer, documents: LoadedTarget, queries: LoadedTarget | None = None
    ) -> None:
        self._bundle = bundle
        self._tokenizer = tokenizer
        self._documents = documents
        self._queries = queries or documents
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
        profile: str | None = None,
        engine: str | Engine | None = None,
        threads: int | None = None,
    ) -> "Encoder":
        """Open a bundle and load one of its targets, or one for queries and one for documents.

        Args:
            bundle: the bundle's folder, or a bundle that is open already.
            target: such as ``"3x128"``; without it the deepest and widest fp32 target.
            query_target: the target for queries, such as ``"3x128"``, instead of ``target``; it needs
                ``document_target``, of the same dim and space.
            document_target: the target for documents, such as ``"6x128"``.
            profile: a budget profile of the bundle, such as ``"edge"``, instead of a target; where it had to fall
                back on something else than it names, a warning says so.
            engine: the inference engine; without it the profile's, or ``onnxruntime``.
            threads: threads to compute with, on one batch or on several at once; without it, what affinity and the
                control group's quota allow.

        Raises:
            BundleError: the bundle is missing, damaged or hostile.
            InputError: the bundle does not hold a target or the profile, vectors of the two targets cannot be compared,
                or ``threads`` is below 1.
            EngineError: the engine is not installed, does not compute in the target's dtype, or refused the graph.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        chosen = choose_entries(opened, target, query_target, document_target, profile)
        queries, documents = chosen.queries, chosen.documents
        engine = engine or chosen.engine or DEFAULT_ENGINE
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        # Before it is loaded: nobody should install an engine that does not run the target.
        kind = engine.partition(":")[0] if isinstance(engine, str) else engine.name
        for entry in (queries, documents):
            require_dtype(kind, str(entry.target), entry.dtype)
        loaded = load_engine(engine) if isinstance(engine, str) else engine
        count = threads or available_threads()
        first = load_target(opened, documents, loaded, count)
        second = None if queries == documents else load_target(opened, queries, loaded, count)
        return cls(opened, load_tokenizer(opened), first, second)

    @property
    def bundle(self) -> Bundle:
        """The bundle that it was opened from."""
        return self._bundle

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def target(self) -> Target:
        """The target that embeds texts, and queries too unless they have one of their own."""
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
        """Name of the vector space; vectors may be compared only within one."""
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
        """How many texts were longer than ``max_seq_length`` and were cut, since the encoder was opened."""
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
            prompt_name: name of a prompt of the model, put before each text.
            prompt: a prompt given word for word; it wins over ``prompt_name``.
            batch_size: most texts of a batch; without it, what suits the engine.
            batch_tokens: most tokens of a batch, padding included, the limit that usually binds; without it, what
                suits the engine.
            show_progress_bar: show a bar on standard error.
            precision: ``float32``; or for a smaller index ``int8``, ``uint8``, ``binary`` (as int8) or ``ubinary`` (as
                uint8), as sentence-transformers makes them, between the ranges that the bundle holds of this target;
                :func:`ese_deploy.runtime.precision.quantize` says how.

        Returns:
            float32 [dim] for one text, [n, dim] for several, rows of norm 1, in the order given; or those rows in the
            precision asked for, which holds eight components of ``binary`` and ``ubinary`` in a number.

        Raises:
            InputError: a text is not a ``str``, holds half of a surrogate pair or has no token, the prompt's name is
                unknown, a limit is below 1, or there is no such precision, or the bundle has no ranges for it.
            EngineError: the engine failed.
        """
        return self._embed(
            self._documents,
            sentences,
            self._prefix(prompt_name, prompt),
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            show_progress_bar=show_progress_bar,
            precision=precision,
        )

    def encode_query(
        self,
        sentences: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Embeddings:
        """Embed search queries: as :meth:`encode`, with the model's prompt named ``query`` where it has one.

        The query target embeds them, where one was named.
        """
        name = self._role_prompt(prompt_name, prompt, ("query",))
        return self._embed(self._queries, sentences, self._prefix(name, prompt), **options)

    def encode_document(
        self,
        sentences: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Embeddings:
        """Embed documents: as :meth:`encode`, with the first of the prompts ``document``, ``passage``, ``corpus``."""
        name = self._role_prompt(prompt_name, prompt, _DOCUMENT_PROMPTS)
        return self._embed(self._documents, sentences, self._prefix(name, prompt), **options)

    def encode_iter(
        self,
        sentences: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        window: int = 1024,
        **options: Unpack[EncodeOptions],
    ) -> Iterator[Embeddings]:
        """Embed a stream of texts in bounded memory; the longest text takes about 100 bytes a character.

        Args:
            sentences: any iterable of texts; it is read ``window`` texts at a time.
            prompt_name: as in :meth:`encode`.
            prompt: as in :meth:`encode`.
            window: texts held, sorted by length and embedded together; at least 1.
            **options: as in :meth:`encode`.

        Returns:
            For each text, in order, a vector, float32 [dim], or as ``precision`` says.

        Raises:
            InputError: ``window`` is below 1, or ``sentences`` is one text; later as :meth:`encode`.
        """
        if window < 1:
            raise InputError(f"window must be at least 1, got {window}")
        if isinstance(sentences, str):
            raise InputError("encode_iter takes an iterable of texts, got one text; give that to encode")
        prefix = self._prefix(prompt_name, prompt)
        texts = iterate_texts(sentences)

        def embed() -> Iterator[Embeddings]:
            first = 0
            while chunk := list(itertools.islice(texts, window)):
                yield from self._embed(self._documents, chunk, prefix, first=first, **options)
                first += len(chunk)

        return embed()

    def similarity(self, first: ArrayLike, second: ArrayLike, *, second_encoder: "Encoder | None" = None) -> Vectors:
        """Cosine of each vector of ``first`` with each of ``second``.

        Args:
            first: vectors of this encoder, [n, dim] or [dim].
            second: vectors to compare with, [m, dim] or [dim].
            second_encoder: the encoder that made ``second``, where it is another one.

        Returns:
            float32 [n, m].

        Raises:
            InputError: the dims differ, a vector is quantised, or the two encoders' vectors lie in different spaces.
        """
        if second_encoder is not None and second_encoder.space != self.space:
            raise InputError(
                f"vectors of target {self.target} (space {self.space}) and of target {second_encoder.target} "
                f"(space {second_encoder.space}) cannot be compared; embed both with one target"
            )
        arrays = [np.asarray(vectors) for vectors in (first, second)]
        for array in arrays:
            if array.dtype in (np.int8, np.uint8):
                raise InputError(
                    f"similarity compares vectors of precision float32, got {array.dtype}; search quantised ones "
                    "with the index that holds them"
                )
        rows = [np.atleast_2d(array.astype(np.float32)) for array in arrays]
        for vectors in rows:
            if vectors.ndim != 2 or vectors.shape[1] != self.dim:
                raise InputError(
                    f"vectors of target {self.target} have the shape [n, {self.dim}], got {list(vectors.shape)}; "
                    "embed both sides with one target"
                )
        left, right = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in rows)
        cosines: Vectors = left @ right.T
        return cosines

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
        batch = Batch(
            loaded.batch.size if batch_size is None else batch_size,
            loaded.batch.tokens if batch_tokens is None else batch_tokens,
        )
        if batch.size < 1 or batch.tokens < 1:
            raise InputError(f"batch_size and batch_tokens must be at least 1, got {batch.size} and {batch.tokens}")
        check_precision(precision)
        # Queries lie between the same numbers as documents, or their components could not be compared.
        ranges = self._documents.ranges if needs_ranges(precision) else None
        vectors = np.empty((len(texts), self.dim), np.float32)
        with _progress_bar(len(texts), show_progress_bar) as advance:
            for start in range(0, len(texts), _WINDOW):
                tokens = self._tokenizer([prefix + text for text in texts[start : start + _WINDOW]])
                if tokens.truncated:
                    self._count_truncated(tokens.truncated)
                vectors[start : start + _WINDOW] = loaded.embed(self._tokenizer, tokens, batch, advance)
        embeddings = quantize(vectors, precision, ranges)
        return embeddings[0] if single else embeddings

    def _count_truncated(self, count: int) -> None:
        with self._lock:
            first = self._truncated == 0
            self._truncated += count
        if first:
            warnings.warn(
                f"some texts are longer than {self.max_seq_length} tokens and are cut there; "
                "Encoder.truncated_texts counts them",
                stacklevel=4,
            )

    def _prefix(self, prompt_name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            return prompt
        name = prompt_name if prompt_name is not None else self.manifest.default_prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise InputError(f"the model has no prompt '{name}'; it has: {known}")
        return self.prompts[name]

    def _role_prompt(self, prompt_name: str | None, prompt: str | None, candidates: tuple[str, ...]) -> str | None:
        if prompt_name is not None or prompt is not None:
            return prompt_name
        return next((name for name in candidates if name in self.prompts), None)


@contextmanager
def _progress_bar(total: int, show: bool) -> Iterator[Callable[[int], object]]:
    """Gives the function to call with each batch's number of texts."""
    if not show:
        yield lambda _: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise InputError("show_progress_bar=True needs tqdm; pip install tqdm") from None
    with tqdm(total=total, unit="text") as bar:
        yield bar.update
