"""Fitting projections that bring all exits into the embedding space of the full model."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import normalize

from ese_deploy.backbones import Checkpoint, exit_states, pool
from ese_deploy.backbones.dense import load_head
from ese_deploy.errors import InputError
from ese_deploy.evaluate.checkpoint import text_tokenizer
from ese_deploy.export.states import StateBatch, count_tokens, pooled_states, token_states
from ese_deploy.export.table import TeacherTexts, fit_table
from ese_deploy.export.texts import CalibrationTexts
from ese_deploy.projections.pca import Moments, fit_pca
from ese_deploy.projections.projection import Projection, input_states, unit_rows
from ese_deploy.projections.ridge import CrossMoments, fit_ridge, restore_spread
from ese_deploy.projections.tokens import TokenFeatures, rarity_weights
from ese_deploy.system.progress import Progress
from ese_deploy.texts.sentences import with_sentence_groups

__all__ = ["fit_aligned"]

# Features of texts wait in a file of at most this size until the table is trained.
_MOST_BYTES = 2 << 30
# The products of all features, in float64, if they fit into this size; else those of one exit after the other.
_MOST_PRODUCTS = 1 << 30
_BLOCK = 2048
_HALF, _DOUBLE = 2, 8


def fit_aligned(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    depths: Sequence[int],
    calibration: CalibrationTexts,
    features: frozenset[str],
    progress: Progress,
    *,
    components: Projection | None = None,
    tokens: TokenFeatures | None = None,
) -> dict[int, Projection]:
    """Ridge projections onto the principal components of the full model's vectors.

    The backbone runs over the texts once. What exits read is kept in a temporary file, because the token vectors, which
    exits read too, are fitted to the full model's vectors of all texts.

    Args:
        checkpoint: the checkpoint.
        backbone: its backbone, loaded.
        depths: the exits to fit; 0 is the table of token vectors.
        calibration: the texts; spans of them are used too.
        features: of :data:`ese_deploy.projections.tokens.TOKEN_FEATURES`.
        progress: called in each stage.
        components: the rotation onto the components, the projection of the full depth, if the bundle has it already.
        tokens: the token features, if the bundle has them already.

    Raises:
        InputError: there are too few texts, or the file was changed while it was read.
    """
    if set(depths) <= {checkpoint.depth}:
        return {checkpoint.depth: components or _fit_components(checkpoint, backbone, calibration, progress)}
    vocabulary = backbone.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    counts = count_tokens(checkpoint, calibration, vocabulary, progress, with_sentence_groups)
    rarity = rarity_weights(counts.with_token, counts.texts)
    if tokens is not None and tokens.rarity is not None:
        rarity = tokens.rarity
    layout = Layout.of(checkpoint, depths, features)
    with tempfile.TemporaryDirectory(prefix="ese-deploy-", ignore_cleanup_errors=True) as folder:
        seen = _observe(checkpoint, backbone, calibration, layout, rarity, counts.texts, Path(folder), progress)
        components = components or fit_pca(seen.moments)
        if tokens is None and features:
            tokens = _fit_tokens(checkpoint, backbone, seen, components, rarity, features, progress)
        fitted = {checkpoint.depth: components}
        if 0 in depths:
            fitted[0] = Projection(np.eye(checkpoint.width, dtype=np.float32), (), tokens)
        wanted = seen.moments.mean_squares(components.matrix)
        for group in layout.groups():
            products = _products(seen, layout, group, components, tokens, progress)
            for depth in group:
                part = products.part(layout.places(depth, group))
                matrix = restore_spread(fit_ridge(part, components), part, wanted)
                fitted[depth] = Projection(np.ascontiguousarray(matrix, np.float32), layout.states[depth], tokens)
            del products
    return fitted


def _fit_components(
    checkpoint: Checkpoint, backbone: nn.Module, calibration: CalibrationTexts, progress: Progress
) -> Projection:
    moments, head, full = Moments(checkpoint.width), load_head(checkpoint.head), checkpoint.depth
    for batch in pooled_states(checkpoint, backbone, [full], calibration, progress, with_sentence_groups):
        moments.add(head(batch.pooled[full]).numpy())
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
    def of(cls, checkpoint: Checkpoint, depths: Iterable[int], features: frozenset[str]) -> "Layout":
        """The layout for some exits of a checkpoint."""
        states = {depth: input_states(depth) for depth in depths if 0 < depth < checkpoint.depth}
        needed = sorted({state for read in states.values() for state in read})
        pooled = checkpoint.hidden_size * len(checkpoint.pooling.split("+"))
        kinds = [("pooled", pooled), *([("weighted", checkpoint.hidden_size)] if "rarity" in features else [])]
        columns, end = {}, 0
        for kind, width in kinds:
            for state in needed:
                columns[kind, state] = (end, width)
                end += width
        return cls(states, columns, checkpoint.width if "table" in features else 0)

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
    checkpoint: Checkpoint,
    backbone: nn.Module,
    calibration: CalibrationTexts,
    layout: Layout,
    rarity: NDArray[np.float32],
    count: int,
    folder: Path,
    progress: Progress,
) -> _Seen:
    head, full = load_head(checkpoint.head), checkpoint.depth
    stride = max(1, -(-count * layout.width * _HALF // _MOST_BYTES))
    places = np.arange(0, count, stride)
    features = _half_file(folder / "features", (len(places), layout.width))
    teacher = _half_file(folder / "teacher", (count, checkpoint.width))
    moments, tokens = Moments(checkpoint.width), []
    states = {state for _, state in layout.columns}
    weighted = {state for kind, state in layout.columns if kind == "weighted"}
    start = end = 0
    for batch in pooled_states(
        checkpoint, backbone, {full, *states}, calibration, progress, with_sentence_groups, rarity, weighted
    ):
        vectors = head(batch.pooled[full]).numpy()
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
        raise InputError(f"{calibration.texts.path} was changed while it was read. Export again.")
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
    checkpoint: Checkpoint,
    backbone: nn.Module,
    seen: _Seen,
    components: Projection,
    rarity: NDArray[np.float32],
    features: frozenset[str],
    progress: Progress,
) -> TokenFeatures:
    table = None
    if "table" in features:
        rotation = components.matrix.T
        rotated = np.empty((len(seen.texts), checkpoint.width), np.float16)
        for start in range(0, len(rotated), _BLOCK):
            block = seen.texts.vectors[start : start + _BLOCK].astype(np.float32)
            rotated[start : start + _BLOCK] = unit_rows(block @ rotation)
        embeddings = token_states(checkpoint, backbone, np.arange(len(rarity)))
        texts = TeacherTexts(seen.texts.flat, seen.texts.starts, rotated)
        empty = _empty_text_vector(checkpoint, backbone) @ rotation
        table = fit_table(texts, embeddings, rarity, progress, empty)
    return TokenFeatures(rarity if "rarity" in features else None, table)


def _empty_text_vector(checkpoint: Checkpoint, backbone: nn.Module) -> NDArray[np.float32]:
    """The full model's vector of the empty text; zeros for a tokenizer that gives it no token."""
    ids = text_tokenizer(checkpoint).tokenizer.encode("").ids
    if not ids:
        return np.zeros(checkpoint.width, np.float32)
    tokens = torch.tensor([ids])
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        states = exit_states(backbone, checkpoint.architecture, tokens, mask)
        vector = load_head(checkpoint.head)(pool(states[-1], mask, checkpoint.pooling))
    unit: NDArray[np.float32] = normalize(vector, dim=-1)[0].numpy()
    return unit


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
