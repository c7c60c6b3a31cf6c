"""Fitting all exits: ridge projections onto the full model's vectors, and the token features that they read."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from ese_deploy.errors import InputError
from ese_deploy.fitting.source import StateBatch, StateSource
from ese_deploy.fitting.table import TeacherTexts, fit_table
from ese_deploy.projections.pca import Moments, fit_pca
from ese_deploy.projections.projection import Projection, input_states, unit_rows
from ese_deploy.projections.ridge import CrossMoments, fit_ridge, restore_spread
from ese_deploy.projections.tokens import TokenFeatures, rarity_weights
from ese_deploy.system.progress import Progress

__all__ = ["fit_exits"]

# Features of texts wait in a file of at most this size until the table is trained.
_MOST_BYTES = 2 << 30
# The products of all features, in float64, if they fit into this size; else those of one exit after the other.
_MOST_PRODUCTS = 1 << 30
_BLOCK = 2048
_HALF, _DOUBLE = 2, 8


def fit_exits(
    source: StateSource,
    depths: Sequence[int],
    features: frozenset[str],
    progress: Progress,
    *,
    components: Projection | None = None,
    tokens: TokenFeatures | None = None,
    trained: Mapping[int, Projection] = MappingProxyType({}),
    share: float = 1.0,
) -> dict[int, Projection]:
    """Ridge projections onto the principal components of the full model's vectors.

    The model runs over the texts once. What exits read is kept in a temporary file, because the token vectors, which
    exits read too, are fitted to the full model's vectors of all texts.

    Args:
        source: the model and the texts.
        depths: the exits to fit; 0 is the table of token vectors.
        features: of :data:`ese_deploy.projections.tokens.TOKEN_FEATURES`.
        progress: called in each stage.
        components: the projection of the full depth, if there is one already.
        tokens: the token features, if there are some already.
        trained: trained projections of exits, to average with.
        share: weight of the fitted projections in that average, 0 to 1.

    Raises:
        InputError: there are too few texts, or they were changed while they were read.
    """
    full = source.depth
    if set(depths) <= {full}:
        return {full: components or _fit_components(source, progress)}
    counts = source.count_tokens(progress)
    rarity = rarity_weights(counts.with_token, counts.texts)
    if tokens is not None and tokens.rarity is not None:
        rarity = tokens.rarity
    layout = Layout.of(source, depths, features)
    with tempfile.TemporaryDirectory(prefix="ese-deploy-", ignore_cleanup_errors=True) as folder:
        seen = _observe(source, layout, rarity, counts.texts, Path(folder), progress)
        components = components or fit_pca(seen.moments)
        if tokens is None and features:
            tokens = _fit_tokens(source, seen, components, rarity, features, progress)
        fitted = {full: components}
        if 0 in depths:
            fitted[0] = Projection(np.eye(source.width, dtype=np.float32), (), tokens)
        wanted = seen.moments.mean_squares(components.matrix)
        for group in layout.groups():
            products = _products(seen, layout, group, components, tokens, progress)
            for depth in group:
                part = products.part(layout.places(depth, group))
                matrix = fit_ridge(part, components)
                if depth in trained:
                    matrix = (1 - share) * trained[depth].matrix + share * matrix
                matrix = restore_spread(matrix, part, wanted)
                fitted[depth] = Projection(np.ascontiguousarray(matrix, np.float32), layout.states[depth], tokens)
            del products
    return fitted


def _fit_components(source: StateSource, progress: Progress) -> Projection:
    moments = Moments(source.width)
    for batch in source.batches((), progress):
        moments.add(batch.vectors.numpy())
    return fit_pca(moments)


@dataclass(frozen=True)
class Layout:
    """Where the features of texts are in their file.

    Attributes:
        states: for each exit the states that its projection reads.
        columns: for each kind of features, ``pooled`` or ``weighted``, and state its first column and width.
        table: width of the token vectors; 0 if no exit reads them.
    """

    states: Mapping[int, tuple[int, ...]]
    columns: Mapping[tuple[str, int], tuple[int, int]]
    table: int

    @classmethod
    def of(cls, source: StateSource, depths: Iterable[int], features: frozenset[str]) -> "Layout":
        """The layout for some exits of a model."""
        states = {depth: input_states(depth) for depth in depths if 0 < depth < source.depth}
        needed = sorted({state for read in states.values() for state in read})
        kinds = [("pooled", source.pooled), *([("weighted", source.hidden)] if "rarity" in features else [])]
        columns, end = {}, 0
        for kind, width in kinds:
            for state in needed:
                columns[kind, state] = (end, width)
                end += width
        return cls(states, columns, source.width if "table" in features else 0)

    @property
    def width(self) -> int:
        """Columns of the file, without the token vectors, which are computed from the tokens."""
        return sum(width for _, width in self.columns.values())

    def groups(self) -> list[list[int]]:
        """Exits whose products are summed together."""
        fits = (self.width + self.table) ** 2 * _DOUBLE <= _MOST_PRODUCTS
        return ([list(self.states)] if self.states else []) if fits else [[depth] for depth in self.states]

    def read(self, group: Sequence[int]) -> NDArray[np.int64]:
        """The columns of the file that a group of exits reads, in order."""
        needed = {state for depth in group for state in self.states[depth]}
        parts = [np.arange(first, first + width) for (_, s), (first, width) in self.columns.items() if s in needed]
        return np.concatenate(parts)

    def places(self, depth: int, group: Sequence[int]) -> NDArray[np.int64]:
        """The places of an exit's inputs among the columns of its group, which token vectors follow."""
        own, columns = self.states[depth], self.read(group)
        kinds = dict.fromkeys(kind for kind, _ in self.columns)
        spans = [self.columns[kind, state] for kind in kinds for state in own]
        wanted = np.concatenate([np.arange(first, first + width) for first, width in spans])
        return np.concatenate([np.searchsorted(columns, wanted), len(columns) + np.arange(self.table)])


@dataclass(frozen=True)
class _Seen:
    """What one pass over the texts gave.

    Attributes:
        moments: of the full model's vectors.
        texts: the tokens of all texts, and the full model's vectors in its own space.
        features: float16 [rows, columns of the layout], of a part of the texts.
        places: which texts these are, int64 [rows].
    """

    moments: Moments
    texts: TeacherTexts
    features: NDArray[np.float16]
    places: NDArray[np.int64]


def _observe(
    source: StateSource,
    layout: Layout,
    rarity: NDArray[np.float32],
    count: int,
    folder: Path,
    progress: Progress,
) -> _Seen:
    stride = max(1, -(-count * layout.width * _HALF // _MOST_BYTES))
    places = np.arange(0, count, stride)
    features = _half_file(folder / "features", (len(places), layout.width))
    teacher = _half_file(folder / "teacher", (count, source.width))
    moments, tokens = Moments(source.width), []
    states = {state for _, state in layout.columns}
    weighted = {state for kind, state in layout.columns if kind == "weighted"}
    start = end = 0
    for batch in source.batches(states, progress, rarity, weighted):
        vectors = batch.vectors.numpy()
        moments.add(vectors)
        end = start + len(vectors)
        if end > count:
            break
        teacher[start:end] = unit_rows(vectors)
        kept = np.flatnonzero(np.arange(start, end) % stride == 0)
        if len(kept) and layout.width:
            features[(start + kept) // stride] = _joined(batch, layout)[kept]
        tokens += batch.tokens
        start = end
    if end != count:
        raise InputError(f"{source.texts_name} was changed while it was read. Start again.")
    starts = np.cumsum([0, *map(len, tokens)])
    return _Seen(moments, TeacherTexts(np.concatenate(tokens), starts, teacher), features, places)


def _half_file(path: Path, shape: tuple[int, int]) -> NDArray[np.float16]:
    """An array in a file, or in memory if it is empty, which a file cannot be."""
    return np.memmap(path, np.float16, "w+", shape=shape) if all(shape) else np.empty(shape, np.float16)


def _joined(batch: StateBatch, layout: Layout) -> NDArray[np.float32]:
    """The features of a batch in the order of the file, each scaled to norm 1."""
    found = {"pooled": batch.pooled, "weighted": batch.weighted}
    parts = [normalize(found[kind][state], dim=-1) for kind, state in layout.columns]
    joined: NDArray[np.float32] = torch.cat(parts, dim=-1).numpy()
    return joined


def _fit_tokens(
    source: StateSource,
    seen: _Seen,
    components: Projection,
    rarity: NDArray[np.float32],
    features: frozenset[str],
    progress: Progress,
) -> TokenFeatures:
    table = None
    if "table" in features:
        rotation = components.matrix.T
        rotated = np.empty((len(seen.texts), source.width), np.float16)
        for start in range(0, len(rotated), _BLOCK):
            block = seen.texts.vectors[start : start + _BLOCK].astype(np.float32)
            rotated[start : start + _BLOCK] = unit_rows(block @ rotation)
        texts = TeacherTexts(seen.texts.flat, seen.texts.starts, rotated)
        table = fit_table(texts, source.token_states(), rarity, progress, source.empty_text() @ rotation)
    return TokenFeatures(rarity if "rarity" in features else None, table)


def _products(
    seen: _Seen,
    layout: Layout,
    group: Sequence[int],
    components: Projection,
    tokens: TokenFeatures | None,
    progress: Progress,
) -> CrossMoments:
    """The products of the features that a group of exits reads, summed over texts."""
    columns = layout.read(group)
    whole = len(columns) == layout.width
    moments = CrossMoments(len(columns) + layout.table, components.matrix.shape[1])
    for start, end in _blocks(len(seen.places)):
        stored = seen.features[start:end]
        rows = (stored if whole else stored[:, columns]).astype(np.float32)
        places = seen.places[start:end]
        if layout.table:
            assert tokens is not None
            rows = np.concatenate([rows, tokens.sums(seen.texts.rows(places)).astype(np.float32)], axis=1)
        moments.add(rows, seen.texts.vectors[places].astype(np.float32))
        progress("fit projections", end, len(seen.places))
    return moments


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, _BLOCK):
        yield start, min(start + _BLOCK, count)
