"""Embedding a window of texts with one or several targets: tokenized once, duplicates embedded once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bulk.settings import ModelSettings
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.ranges import load_ranges
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.bundle.spaces import Space, check_space, source_matrix, space_name
from ese_deploy.engines import DEFAULT_ENGINE, Engine, load_engine, require_dtype
from ese_deploy.errors import InputError
from ese_deploy.runtime.loaded import LoadedTarget, choose_entries, load_lookup_target, load_target
from ese_deploy.runtime.precision import needs_ranges, quantize
from ese_deploy.runtime.prompts import QUERY_PROMPTS, find_prompt
from ese_deploy.runtime.tokenize import TextTokenizer, load_tokenizer
from ese_deploy.system.threads import available_threads

__all__ = ["Embedded", "Embedder", "Model", "column_name", "describe_model", "dtype_of"]

# Characters of a window: bounds the memory of tokenization where texts are very long.
_MOST_CHARACTERS = 1 << 25


@dataclass(frozen=True)
class Embedded:
    """Vectors of n texts.

    Attributes:
        vectors: for each target an array [n, columns], in the order of the targets.
        tokens: tokens of the texts, prompts and special tokens included.
        truncated: how many texts were truncated.
        distinct: how many different texts were embedded.
    """

    vectors: list[NDArray[Any]]
    tokens: int
    truncated: int
    distinct: int


@dataclass(frozen=True)
class _Output:
    """A target and the ranges that its integers refer to."""

    loaded: LoadedTarget
    ranges: NDArray[np.float32] | None


@dataclass(frozen=True)
class Model:
    """The targets of a job, before any graph is loaded.

    Attributes:
        bundle: the bundle.
        tokenizer: its tokenizer.
        entries: for each target the one that embeds documents, whose ranges apply, and the one that runs.
        prefix: the prompt before each text.
        space: the choice of embedding spaces.
    """

    bundle: Bundle
    tokenizer: TextTokenizer
    entries: list[tuple[TargetEntry, TargetEntry]]
    prefix: str
    space: Space = "bundle"

    @property
    def targets(self) -> list[str]:
        """The targets that run."""
        return [str(entry.target) for _, entry in self.entries]

    @property
    def spaces(self) -> list[str]:
        """Name of the embedding space of each target."""
        return [space_name(self.bundle.manifest, entry, self.space) for _, entry in self.entries]

    @property
    def dims(self) -> list[int]:
        """Dimensions of each target."""
        return [entry.dim for _, entry in self.entries]

    @property
    def embeds_empty_texts(self) -> bool:
        """Whether an empty text has a token, and so a vector."""
        return bool(self.tokenizer.tokenizer.encode(self.prefix).ids)


def describe_model(settings: ModelSettings) -> Model:
    """Open the bundle, and find its targets and the prompt.

    Raises:
        BundleError: the bundle is missing, damaged or unsafe.
        InputError: a target, the prompt or the ranges of the precision are missing, or a target is named twice.
        EngineError: the engine is not installed, or cannot run a target.
    """
    check_space(settings.space)
    bundle = open_bundle(settings.bundle)
    entries = [_entries(bundle, target, settings.index_target) for target in settings.targets or (None,)]
    names = [str(entry.target) for _, entry in entries]
    repeated = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if repeated is not None:
        raise InputError(f"`targets` names {repeated} twice. Name it once.")
    engine = settings.engine or DEFAULT_ENGINE
    for documents, entry in entries:
        require_dtype(engine.partition(":")[0], str(entry.target), entry.dtype)
        rotated = settings.space == "source" and source_matrix(bundle, entry) is not None
        if needs_ranges(settings.precision) and rotated:
            raise InputError(
                "int8 and uint8 vectors have ranges of the bundle's own embedding space. With `space=source` choose "
                "float32, float16, binary or ubinary."
            )
        if needs_ranges(settings.precision):
            load_ranges(bundle, documents)
    if settings.engine or any(entry.depth for _, entry in entries):
        load_engine(engine)
    role = QUERY_PROMPTS if settings.index_target else ()
    prefix = find_prompt(bundle.manifest, settings.prompt_name, None, role)
    return Model(bundle, load_tokenizer(bundle), entries, prefix, settings.space)


class Embedder:
    """Embeds texts with the targets of a job. Open it with :meth:`open`.

    Args:
        tokenizer: the tokenizer of the bundle.
        outputs: the targets.
        prefix: the prompt before each text.
        precision: of the vectors.
        window: texts that are sorted by length and embedded together.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        outputs: Sequence[_Output],
        prefix: str,
        precision: str,
        window: int,
    ) -> None:
        self._prefix = prefix
        self._tokenizer = tokenizer
        self._outputs = outputs
        self._precision = precision
        self._window = window

    @classmethod
    def open(cls, settings: ModelSettings, window: int = 4096) -> "Embedder":
        """Open the bundle and load the targets.

        Raises:
            BundleError: the bundle is missing, damaged or unsafe.
            InputError: a target, the prompt or the ranges of the precision are missing.
            EngineError: the engine is not installed, or cannot run a target.
        """
        plan = describe_model(settings)
        engine: Engine | None = None
        threads = settings.threads or available_threads()
        outputs = []
        for documents, entry in plan.entries:
            # Depth 0 needs no engine, unless one is named.
            loaded = None if settings.engine else load_lookup_target(plan.bundle, entry, settings.space)
            if loaded is None:
                engine = engine or load_engine(settings.engine or DEFAULT_ENGINE)
                loaded = load_target(plan.bundle, entry, engine, threads, settings.space)
            ranges = load_ranges(plan.bundle, documents) if needs_ranges(settings.precision) else None
            outputs.append(_Output(loaded, ranges))
        return cls(plan.tokenizer, outputs, plan.prefix, settings.precision, window)

    @property
    def embeds_every_text(self) -> bool:
        """Whether each text has a token: the tokenizer adds special tokens."""
        return bool(self._tokenizer.tokenizer.encode("").ids)

    def windows(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Cut texts into windows."""
        start = characters = 0
        for end, text in enumerate(texts):
            characters += len(text)
            if end > start and (end - start == self._window or characters > _MOST_CHARACTERS):
                yield texts[start:end]
                start, characters = end, len(text)
        if start < len(texts):
            yield texts[start:]

    def without_tokens(self, texts: Sequence[str]) -> list[int]:
        """The positions of texts that have no token, and so no vector."""
        encode = self._tokenizer.tokenizer.encode
        return [place for place, text in enumerate(texts) if not encode(self._prefix + text).ids]

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed the texts of a window.

        Raises:
            InputError: a text has no token.
            EngineError: the engine failed.
        """
        counts = Counter(texts)
        places = {text: place for place, text in enumerate(counts)}
        tokens = self._tokenizer([self._prefix + text for text in counts])
        rows = np.fromiter((places[text] for text in texts), np.intp, len(texts))
        truncated = tokens.truncated
        if truncated and len(counts) < len(texts):
            repeated = [(text, count) for text, count in counts.items() if count > 1]
            truncated += sum((count - 1) * self._tokenizer([self._prefix + text]).truncated for text, count in repeated)
        vectors = []
        for output in self._outputs:
            loaded = output.loaded
            found = loaded.embed(self._tokenizer, tokens, loaded.batch, lambda _: None)
            vectors.append(_stored(found, self._precision, output.ranges)[rows])
        return Embedded(vectors, int(tokens.lengths[rows].sum()), truncated, len(counts))


def column_name(target: str, alone: bool) -> str:
    """The name of a target's column: ``embedding``, or with several targets for example ``embedding_3x128``."""
    return "embedding" if alone else f"embedding_{target.replace(':', '_')}"


def dtype_of(precision: str) -> NDArray[Any]:
    """An empty array [0] of the numbers in which a precision is stored."""
    names = {"float32": "float32", "float16": "float16", "int8": "int8", "binary": "int8"}
    return np.empty(0, names.get(precision, "uint8"))


def _stored(vectors: NDArray[np.float32], precision: str, ranges: NDArray[np.float32] | None) -> NDArray[Any]:
    return vectors.astype(np.float16) if precision == "float16" else quantize(vectors, precision, ranges)


def _entries(bundle: Bundle, target: str | None, index_target: str | None) -> tuple[TargetEntry, TargetEntry]:
    """The targets of documents and of the vectors to compute."""
    if index_target is None:
        return choose_entries(bundle, target, None, None)
    return choose_entries(bundle, None, target or index_target, index_target)
