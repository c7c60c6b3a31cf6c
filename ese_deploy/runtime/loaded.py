"""Targets of a bundle: choosing them, and loading their graphs into an engine."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.location import relocate
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.ranges import load_ranges
from ese_deploy.bundle.reader import Bundle, bundle_file, choose_entry, choose_pair, read_graph, weights_of
from ese_deploy.bundle.spaces import Space, source_matrix, space_name
from ese_deploy.bundle.versions import read_stamp, require_version
from ese_deploy.engines import Batch, Engine, EngineInput, Session, Streaming, batch_for
from ese_deploy.engines.integers import overflows
from ese_deploy.engines.lookup import LOOKUP, LOOKUP_DTYPES, Lookup, LookupSession, load_lookup
from ese_deploy.errors import BundleError, EngineError, InputError
from ese_deploy.projections.projection import unit_rows
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.streams import Streams
from ese_deploy.runtime.tokenize import TextTokenizer, Tokens
from ese_deploy.runtime.vectors import check_vectors
from ese_deploy.system.install import release
from ese_deploy.target import Target

__all__ = ["LoadedTarget", "choose_entries", "engine_input", "load_lookup_target", "load_target"]

_log = logging.getLogger(__name__)

_KNOWN_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class LoadedTarget:
    """A target that is ready to run. Several threads may use it at once.

    Attributes:
        bundle: the bundle.
        entry: the target.
        streams: the sessions of its graph.
        engine: the engine's name.
        rounds: whether the engine rounds results to bf16.
        space: name of the embedding space of its vectors.
        to_space: the matrix [dim, dim] that brings the graph's vectors into that space; None if they are in it.
        lookup: the token vectors of a target of depth 0, which are summed without the graph; None: the graph runs.
    """

    bundle: Bundle
    entry: TargetEntry
    streams: Streams
    engine: str
    rounds: bool = False
    space: str = ""
    to_space: Vectors | None = field(default=None, repr=False, compare=False)
    lookup: Lookup | None = field(default=None, repr=False, compare=False)
    _ranges: dict[int, Vectors] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def batch(self) -> Batch:
        """The default batch of the engine."""
        return batch_for(self.engine)

    def ranges(self, dim: int) -> Vectors:
        """Lowest and highest value of each component of vectors that keep ``dim`` of them, float32 [2, dim].

        Raises:
            InputError: the bundle does not contain them, or no target of this depth, dtype and ``dim``; or the vectors
                are in another embedding space than the bundle's own.
        """
        if self.to_space is not None:
            raise InputError(
                "int8 and uint8 vectors have ranges of the bundle's own embedding space. With `space=source` choose "
                "float32, binary or ubinary."
            )
        if dim not in self._ranges:
            entry = self.entry
            wanted = Target(entry.depth, dim, entry.dtype)
            self._ranges[dim] = load_ranges(
                self.bundle, entry if dim == entry.dim else choose_entry(self.bundle, wanted)
            )
        return self._ranges[dim]

    def embed(
        self,
        tokenizer: TextTokenizer,
        tokens: Tokens,
        batch: Batch,
        advance: Callable[[int], object],
    ) -> Vectors:
        """Embed texts in batches of similar lengths.

        Args:
            tokenizer: the tokenizer that made ``tokens``.
            tokens: of n texts.
            batch: most rows and tokens of a batch.
            advance: called with the number of texts of each batch.

        Returns:
            float32 [n, dim], rows of norm 1.

        Raises:
            EngineError: the engine failed, or returned something else than finite vectors of norm 1.
        """
        if self.lookup is not None:
            found = self.lookup.embed([encoding.ids for encoding in tokens.encodings])
            check_vectors(found, len(tokens.encodings), self.entry.dim, self.engine)
            advance(len(found))
            return self.in_space(found)
        names = self.streams.inputs

        def prepare(rows: NDArray[np.intp]) -> dict[str, NDArray[np.int64]]:
            return tokenizer.collate([tokens.encodings[row] for row in rows], names)

        out = np.empty((len(tokens.encodings), self.entry.dim), np.float32)
        for rows, vectors in self.streams.run(plan_batches(tokens.lengths, batch.size, batch.tokens), prepare):
            check_vectors(vectors, len(rows), self.entry.dim, self.engine, bf16=self.rounds)
            out[rows] = vectors
            advance(len(rows))
        return self.in_space(out)

    def in_space(self, vectors: Vectors) -> Vectors:
        """The graph's vectors, [n, dim], in the embedding space of this target."""
        return vectors if self.to_space is None else unit_rows(vectors @ self.to_space.T).astype(np.float32)


def choose_entries(
    bundle: Bundle,
    target: Target | str | None,
    query_target: Target | str | None,
    document_target: Target | str | None,
) -> tuple[TargetEntry, TargetEntry]:
    """The targets of documents and of queries.

    Args:
        bundle: an open bundle.
        target: the target of both.
        query_target: the target of queries, together with ``document_target``.
        document_target: the target of documents.

    Raises:
        InputError: the arguments exclude each other, the bundle does not contain a target, or the vectors of the two
            targets are not comparable.
    """
    if query_target is None and document_target is None:
        entry = choose_entry(bundle, target)
        return entry, entry
    if query_target is None or document_target is None or target is not None:
        given = {"target": target, "query_target": query_target, "document_target": document_target}
        named = " and ".join(f"`{name}={value}`" for name, value in given.items() if value is not None)
        raise InputError(f"Pass `query_target` and `document_target` together, without `target`. Got {named}.")
    queries, documents = choose_pair(bundle, query_target, document_target)
    return documents, queries


def engine_input(bundle: Bundle, entry: TargetEntry) -> EngineInput:
    """What an engine needs to load a target of a bundle.

    Raises:
        BundleError: the graph's file is missing, a link, or not the one that the manifest describes.
    """
    weights, manifest = weights_of(bundle, entry.dtype), bundle.manifest
    graph, path = read_graph(bundle, entry), bundle.path / entry.file
    file = bundle_file(bundle, weights)
    if file.parent != bundle.path:  # behind a link of the Hugging Face cache, where engines do not look
        graph, path = relocate(graph, weights.file, file.name), file.parent / entry.file
    return EngineInput(
        graph=graph,
        path=path,
        weights=file,
        weights_sha256=weights.sha256,
        max_length=manifest.max_seq_length,
        dtype=entry.dtype,
        inputs=tuple(manifest.inputs),
    )


def load_lookup_target(bundle: Bundle, entry: TargetEntry, space: Space = "bundle") -> LoadedTarget | None:
    """Map the token vectors of a target of depth 0, which then needs no inference engine.

    Args:
        bundle: an open bundle.
        entry: one of its targets.
        space: the embedding space of the vectors.

    Returns:
        None if the target has layers, or its graph does more than a lookup.

    Raises:
        InputError: the target's vectors cannot be brought into the space.
        BundleError: the graph is not the one that was exported, or another bundle is in the folder now.
    """
    if entry.depth or entry.dtype not in LOOKUP_DTYPES:
        return None
    source = engine_input(bundle, entry)
    weights = weights_of(bundle, entry.dtype).file
    require_version(bundle.path, bundle.stamps, weights)
    lookup = load_lookup(source, entry.dim)
    require_version(bundle.path, bundle.stamps, weights)
    if lookup is None:
        return None
    named = space_name(bundle.manifest, entry, space)
    matrix = source_matrix(bundle, entry) if space == "source" else None
    streams = Streams(LookupSession(source.inputs, lookup))
    return LoadedTarget(bundle, entry, streams, LOOKUP, False, named, matrix, lookup)


def load_target(
    bundle: Bundle, entry: TargetEntry, engine: Engine, threads: int, space: Space = "bundle"
) -> LoadedTarget:
    """Load a target's graph.

    Args:
        bundle: an open bundle.
        entry: one of its targets.
        engine: the inference engine.
        threads: threads to compute with, at least 1.
        space: the embedding space of the vectors.

    Raises:
        InputError: the target's vectors cannot be brought into the space.
        BundleError: the graph is not the one that was exported, or another bundle is in the folder now.
        EngineError: the engine is too old, or cannot load the graph.
    """
    _require_version(engine, bundle)
    named = space_name(bundle.manifest, entry, space)
    matrix = source_matrix(bundle, entry) if space == "source" else None
    _warn_of_overflow(bundle, entry)
    source = engine_input(bundle, entry)
    weights = weights_of(bundle, entry.dtype).file
    require_version(bundle.path, bundle.stamps, weights)
    session = engine.load(source, threads)
    require_version(bundle.path, bundle.stamps, weights)
    held = read_stamp(source.weights)
    if not set(session.inputs) <= _KNOWN_INPUTS:
        known = ", ".join(sorted(_KNOWN_INPUTS))
        raise BundleError(
            f"{bundle.path / entry.file} has the inputs {', '.join(session.inputs)}, and only {known} are supported."
        )
    rounds = "bf16" in engine.device
    if not isinstance(engine, Streaming):
        return LoadedTarget(bundle, entry, Streams(session, threads), engine.name, rounds, named, matrix)

    def load_streams() -> Session:
        # Another bundle may have replaced this one, with weights of another graph.
        if read_stamp(source.weights) != held:
            return session
        several = engine.load_streams(source, threads)
        return several if read_stamp(source.weights) == held else session

    streams = Streams(session, threads, load_streams)
    return LoadedTarget(bundle, entry, streams, engine.name, rounds, named, matrix)


def _require_version(engine: Engine, bundle: Bundle) -> None:
    """Check that ONNX Runtime is new enough for the graphs of the bundle."""
    installed, least = engine.versions.get("onnxruntime"), bundle.manifest.minimum_onnxruntime
    if installed is not None and release(installed) < release(least):
        raise EngineError(
            f"{bundle.path} needs ONNX Runtime {least} or newer, and {installed} is installed. "
            f"Run: pip install 'onnxruntime>={least}'"
        )


def _warn_of_overflow(bundle: Bundle, entry: TargetEntry) -> None:
    quantization = bundle.manifest.quantization
    if entry.dtype == "int8" and quantization is not None and quantization.weight_bits == 8 and overflows():
        _log.warning(
            "Target %s needs a processor with VNNI, and this one has none: its vectors can be wrong and slow. "
            "Export it with --reduce-range, or choose fp32.",
            entry.target,
        )
