"""The encoder: texts in, unit-norm vectors out, with nothing but an inference engine."""

import functools
import itertools
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ese_deploy.bundle import Bundle, choose_entry, open_bundle, read_graph
from ese_deploy.engines import Batch, Engine, Session, Streaming, batch_for, load_engine, require_dtype
from ese_deploy.engines.integers import overflows
from ese_deploy.errors import BundleError, EngineError, InputError
from ese_deploy.manifest import Manifest, TargetEntry
from ese_deploy.ranges import load_ranges
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.precision import Precision, check_precision, needs_ranges, quantize
from ese_deploy.runtime.streams import Streams
from ese_deploy.runtime.threads import available_threads
from ese_deploy.runtime.tokenize import TextTokenizer, load_tokenizer
from ese_deploy.target import Target

__all__ = ["Encoder"]

# Texts tokenised and sorted at once: enough for tight batches, few enough to bound memory.
_WINDOW = 4096
_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
# Dtypes whose products are sums of whole numbers.
_SUMMED = ("int8", "int8-dynamic")
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

    Example:
        >>> encoder = Encoder.open("exports/minilm", target="3x128")
        >>> vectors = encoder.encode(["A cat sat.", "Ein Hund lief."])
        >>> vectors.shape
        (2, 128)
    """

    def __init__(
        self,
        bundle: Bundle,
        entry: TargetEntry,
        tokenizer: TextTokenizer,
        session: Session | Streams,
        batch: Batch | None = None,
    ) -> None:
        self._bundle = bundle
        self._entry = entry
        self._tokenizer = tokenizer
        self._streams = session if isinstance(session, Streams) else Streams(session)
        self._batch = batch or Batch()
        self._lock = threading.Lock()
        self._truncated = 0

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle,
        target: Target | str | None = None,
        *,
        profile: str | None = None,
        engine: str | Engine = "onnxruntime",
        threads: int | None = None,
    ) -> "Encoder":
        """Open a bundle and load one of its targets.

        Args:
            bundle: the bundle's folder, or a bundle that is open already.
            target: such as ``"3x128"``; without it the deepest and widest fp32 target.
            profile: a budget profile of the bundle, such as ``"edge"``, instead of a target; where it had to fall
                back on something else than it names, a warning says so.
            engine: the inference engine.
            threads: threads to compute with, on one batch or on several at once; without it, what affinity and the
                control group's quota allow.

        Raises:
            BundleError: the bundle is missing, damaged or hostile.
            InputError: the bundle does not hold the target or the profile, or ``threads`` is below 1.
            EngineError: the engine is not installed, does not compute in the target's dtype, or refused the graph.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        entry = choose_entry(opened, target if profile is None else _profile_target(opened, profile, target))
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        # Before it is loaded: nobody should install an engine that does not run the target.
        kind = engine.partition(":")[0] if isinstance(engine, str) else engine.name
        require_dtype(kind, str(entry.target), entry.dtype)
        loaded = load_engine(engine) if isinstance(engine, str) else engine
        _require_version(loaded, opened)
        _warn_of_overflow(opened, entry)
        graph, count = read_graph(opened, entry), threads or available_threads()
        session = loaded.load(graph, opened.path, count)
        if not set(session.inputs) <= _KNOWN_INPUTS:
            raise BundleError(f"{opened.path / entry.file} has the inputs {session.inputs}, known are {_KNOWN_INPUTS}")
        load_streams = (
            partial(loaded.load_streams, graph, opened.path, count) if isinstance(loaded, Streaming) else None
        )
        streams = Streams(session, count, load_streams)
        return cls(opened, entry, load_tokenizer(opened), streams, batch_for(loaded.name))

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
        """The target that is loaded."""
        return self._entry.target

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._entry.dim

    @property
    def space(self) -> str:
        """Name of the vector space; vectors may be compared only within one."""
        return self._entry.space

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
            InputError: a text is not a ``str`` or has no token, the prompt's name is unknown, a limit is below 1, or
                there is no such precision, or the bundle has no ranges for it.
            EngineError: the engine failed.
        """
        single = isinstance(sentences, str)
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"texts must be str, got {type(text).__name__} at position {position}")
        batch_size = self._batch.size if batch_size is None else batch_size
        batch_tokens = self._batch.tokens if batch_tokens is None else batch_tokens
        if batch_size < 1 or batch_tokens < 1:
            raise InputError(f"batch_size and batch_tokens must be at least 1, got {batch_size} and {batch_tokens}")
        check_precision(precision)
        ranges = self._ranges if needs_ranges(precision) else None
        prefix = self._prefix(prompt_name, prompt)
        if prefix:
            texts = [prefix + text for text in texts]
        vectors = np.empty((len(texts), self.dim), np.float32)
        with _progress_bar(len(texts), show_progress_bar) as advance:
            for start in range(0, len(texts), _WINDOW):
                window = texts[start : start + _WINDOW]
                self._encode_window(window, vectors[start : start + _WINDOW], batch_size, batch_tokens, advance)
        embeddings = quantize(vectors, precision, ranges)
        return embeddings[0] if single else embeddings

    def encode_query(
        self,
        sentences: str | Sequence[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Embeddings:
        """Embed search queries: as :meth:`encode`, with the model's prompt named ``query`` where it has one."""
        name = self._role_prompt(prompt_name, prompt, ("query",))
        return self.encode(sentences, prompt_name=name, prompt=prompt, **options)

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
        return self.encode(sentences, prompt_name=name, prompt=prompt, **options)

    def encode_iter(
        self,
        sentences: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        window: int = 1024,
        **options: Unpack[EncodeOptions],
    ) -> Iterator[Embeddings]:
        """Embed a stream of texts in bounded memory.

        Args:
            sentences: any iterable of texts; it is read ``window`` texts at a time.
            prompt_name: as in :meth:`encode`.
            prompt: as in :meth:`encode`.
            window: texts held, sorted by length and embedded together.
            **options: as in :meth:`encode`.

        Yields:
            For each text, in order, a vector, float32 [dim], or as ``precision`` says.
        """
        texts = iter(sentences)
        while chunk := list(itertools.islice(texts, window)):
            yield from self.encode(chunk, prompt_name=prompt_name, prompt=prompt, **options)

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

    @functools.cached_property
    def _ranges(self) -> Vectors:
        return load_ranges(self._bundle, self._entry)

    def _encode_window(
        self,
        texts: list[str],
        out: Vectors,
        batch_size: int,
        batch_tokens: int,
        advance: Callable[[int], object],
    ) -> None:
        tokens = self._tokenizer(texts)
        if tokens.truncated:
            self._count_truncated(tokens.truncated)
        names = self._streams.inputs

        def prepare(rows: NDArray[np.intp]) -> dict[str, NDArray[np.int64]]:
            return self._tokenizer.collate([tokens.encodings[row] for row in rows], names)

        for rows, vectors in self._streams.run(plan_batches(tokens.lengths, batch_size, batch_tokens), prepare):
            out[rows] = vectors
            advance(len(rows))

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


def _profile_target(bundle: Bundle, profile: str, target: Target | str | None) -> Target:
    # Imported here: profiles need the engines' names and the cache, which a plain target does not.
    from ese_deploy.choose.resolution import profile_target

    if target is not None:
        raise InputError(f"name a target or a profile, not both; got target {target} and profile {profile}")
    found = profile_target(bundle, profile)
    if found.fell_back:
        warnings.warn(found.why, stacklevel=4)
    return found.target


def _require_version(engine: Engine, bundle: Bundle) -> None:
    """Refuse a release of ONNX Runtime that is known not to load the bundle's graphs."""
    installed, least = engine.versions.get("onnxruntime"), bundle.manifest.minimum_onnxruntime
    if installed is not None and _release(installed) < _release(least):
        raise EngineError(
            f"{bundle.path} needs ONNX Runtime {least} or newer, installed is {installed}; "
            f"pip install 'onnxruntime>={least}'"
        )


def _warn_of_overflow(bundle: Bundle, entry: TargetEntry) -> None:
    recipe = bundle.manifest.quantization
    if entry.dtype in _SUMMED and recipe is not None and recipe.weight_bits == 8 and overflows():
        warnings.warn(
            f"target {entry.target} assumes a processor with VNNI, which this one has not: its vectors may be wrong "
            "and slow; export it with --reduce-range, or choose fp32",
            stacklevel=3,
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


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
