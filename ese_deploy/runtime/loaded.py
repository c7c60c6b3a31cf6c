"""Targets of a bundle: which ones are meant, and one with its graph loaded by an engine: token ids in, vectors out."""

import functools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.ranges import load_ranges
from ese_deploy.bundle.reader import Bundle, choose_entry, choose_pair, read_graph, weights_of
from ese_deploy.engines import Batch, Engine, EngineInput, Session, Streaming, batch_for
from ese_deploy.engines.integers import overflows
from ese_deploy.errors import BundleError, EngineError, InputError
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.streams import Streams
from ese_deploy.runtime.tokenize import TextTokenizer, Tokens
from ese_deploy.target import Target

if TYPE_CHECKING:
    from ese_deploy.choose.resolution import Resolved

__all__ = ["Chosen", "LoadedTarget", "choose_entries", "engine_input", "load_target"]

_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class LoadedTarget:
    """A target that is ready to run; safe to use from many threads.

    Attributes:
        bundle: where it lies.
        entry: the target.
        streams: the sessions of its graph.
        batch: what suits the engine.
    """

    bundle: Bundle
    entry: TargetEntry
    streams: Streams
    batch: Batch

    @functools.cached_property
    def ranges(self) -> Vectors:
        """Lowest and highest value of each component, float32 [2, dim].

        Raises:
            InputError: the bundle has none.
        """
        return load_ranges(self.bundle, self.entry)

    def embed(
        self,
        tokenizer: TextTokenizer,
        tokens: Tokens,
        batch: Batch,
        advance: Callable[[int], object],
    ) -> Vectors:
        """Embed texts in batches of like length.

        Args:
            tokenizer: what made ``tokens``.
            tokens: of n texts.
            batch: most rows and tokens of a batch.
            advance: called with each batch's number of texts.

        Returns:
            float32 [n, dim], rows of norm 1.

        Raises:
            EngineError: the engine failed.
        """
        names = self.streams.inputs

        def prepare(rows: NDArray[np.intp]) -> dict[str, NDArray[np.int64]]:
            return tokenizer.collate([tokens.encodings[row] for row in rows], names)

        out = np.empty((len(tokens.encodings), self.entry.dim), np.float32)
        for rows, vectors in self.streams.run(plan_batches(tokens.lengths, batch.size, batch.tokens), prepare):
            out[rows] = vectors
            advance(len(rows))
        return out


@dataclass(frozen=True)
class Chosen:
    """What is to be loaded.

    Attributes:
        queries: the target of queries.
        documents: the target of documents; the same one unless two are named.
        engine: the engine that a profile asks for; None where the caller named targets.
    """

    queries: TargetEntry
    documents: TargetEntry
    engine: str | None = None


def choose_entries(
    bundle: Bundle,
    target: Target | str | None,
    query_target: Target | str | None,
    document_target: Target | str | None,
    profile: str | None,
) -> Chosen:
    """The targets of queries and of documents.

    Args:
        bundle: an open bundle.
        target: the target of both.
        query_target: the target of queries; it needs ``document_target``.
        document_target: the target of documents.
        profile: a budget profile that names the target of both.

    Raises:
        InputError: too much or too little is named, the bundle does not hold it, or the two cannot be compared.
    """
    given = {"target": target, "query_target": query_target, "document_target": document_target, "profile": profile}
    named = [f"{name} {value}" for name, value in given.items() if value is not None]
    if query_target is None and document_target is None:
        if len(named) > 1:
            raise InputError(f"name a target or a profile, not both; got {' and '.join(named)}")
        if profile is not None:
            resolved = _resolve(bundle, profile)
            entry = choose_entry(bundle, resolved.target)
            return Chosen(entry, entry, resolved.engine)
        entry = choose_entry(bundle, target)
        return Chosen(entry, entry)
    if query_target is None or document_target is None or len(named) > 2:
        raise InputError(f"name query_target and document_target, and nothing else; got {' and '.join(named)}")
    return Chosen(*choose_pair(bundle, query_target, document_target))


def engine_input(bundle: Bundle, entry: TargetEntry) -> EngineInput:
    """What an engine needs to load a target of a bundle.

    Raises:
        BundleError: the graph's file is missing, a link, or not the one that the manifest describes.
    """
    weights, manifest = weights_of(bundle, entry.dtype), bundle.manifest
    return EngineInput(
        graph=read_graph(bundle, entry),
        path=bundle.path / entry.file,
        weights=bundle.path / weights.file,
        weights_sha256=weights.sha256,
        max_length=manifest.max_seq_length,
        dtype=entry.dtype,
        inputs=tuple(manifest.inputs),
    )


def load_target(bundle: Bundle, entry: TargetEntry, engine: Engine, threads: int) -> LoadedTarget:
    """Load a target's graph.

    Args:
        bundle: an open bundle.
        entry: one of its targets.
        engine: the inference engine.
        threads: threads to compute with, at least 1.

    Raises:
        BundleError: the graph is not the one that was exported.
        EngineError: the engine is too old, or refused the graph.
    """
    _require_version(engine, bundle)
    _warn_of_overflow(bundle, entry)
    source = engine_input(bundle, entry)
    held = _stamp(source.weights)
    session = engine.load(source, threads)
    if not set(session.inputs) <= _KNOWN_INPUTS:
        raise BundleError(f"{bundle.path / entry.file} has the inputs {session.inputs}, known are {_KNOWN_INPUTS}")
    if not isinstance(engine, Streaming):
        return LoadedTarget(bundle, entry, Streams(session, threads), batch_for(engine.name))

    def load_streams() -> Session:
        # By now another bundle may lie in the folder, whose weights are not this graph's.
        if _stamp(source.weights) != held:
            return session
        several = engine.load_streams(source, threads)
        return several if _stamp(source.weights) == held else session

    return LoadedTarget(bundle, entry, Streams(session, threads, load_streams), batch_for(engine.name))


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What tells a file from one that takes its place; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _resolve(bundle: Bundle, profile: str) -> "Resolved":
    # Imported here: profiles need the engines' names and the cache, which a plain target does not.
    from ese_deploy.choose.resolution import profile_target

    found = profile_target(bundle, profile)
    if found.fell_back:
        warnings.warn(found.why, stacklevel=4)
    return found


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
    if entry.dtype == "int8" and recipe is not None and recipe.weight_bits == 8 and overflows():
        warnings.warn(
            f"target {entry.target} assumes a processor with VNNI, which this one has not: its vectors may be wrong "
            "and slow; export it with --reduce-range, or choose fp32",
            stacklevel=4,
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
