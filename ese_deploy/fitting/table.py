"""Fitting a table of token vectors, whose sums over texts come near to the full model's vectors.

The start is a ridge regression of rarity-weighted sums of token embeddings onto the full model's vectors. Then the
table itself is trained, at several prefixes, for the full model's vectors, for its similarities within a batch and for
its similarities to other texts' vectors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag, kl_div, log_softmax, normalize, softmax

from ese_deploy.projections.projection import unit_rows
from ese_deploy.projections.ridge import CrossMoments
from ese_deploy.system.progress import Progress
from ese_deploy.target import default_dims

__all__ = ["TeacherTexts", "fit_table"]

Rows = NDArray[np.float32]

_RIDGE_ROWS = 4096
# The root mean square of an entry at the start, for which the learning rate is.
_SCALE = 0.075
_RATE, _BATCH, _TEMPERATURE = 4e-3, 512, 20.0
# Other texts, whose vectors of the full model stand for an index that is searched.
_INDEX = 1536
# Texts that training sees in all; with few texts, each is seen more often. More epochs overfit: other texts then rank
# worse at full width.
_SEEN, _LEAST_EPOCHS, _MOST_EPOCHS = 240_000, 3, 6
# The held-out share, by which the best epoch is chosen. With fewer texts than this the start is kept.
_HELD_OUT, _MOST_HELD_OUT, _LEAST_TEXTS = 50, 2048, 1024
_SHORTEST_PREFIX = 32
_SEED = 0


@dataclass(frozen=True)
class TeacherTexts:
    """Texts and the full model's vectors of them.

    Attributes:
        flat: token ids of all texts, special tokens included, int32 [tokens].
        starts: where each text begins, and the end, int64 [n + 1].
        vectors: [n, width], rows of norm 1, in the bundle's embedding space; any float dtype.
    """

    flat: NDArray[np.int32]
    starts: NDArray[np.int64]
    vectors: NDArray[np.floating]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self, places: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """The token ids of some texts."""
        return [self.flat[self.starts[place] : self.starts[place + 1]] for place in places]


def fit_table(
    texts: TeacherTexts, embeddings: Rows, rarity: Rows, progress: Progress, empty: NDArray[np.floating]
) -> Rows:
    """Fit a table of token vectors.

    Args:
        texts: texts and the full model's vectors of them.
        embeddings: the token embeddings, [vocabulary, hidden].
        rarity: rarity weights, [vocabulary].
        progress: called after each step.
        empty: the full model's vector of the empty text, [width].

    Returns:
        float32 [vocabulary, width].
    """
    table = _start(texts, embeddings, rarity)
    # Tokens without rarity are in every text. A small share of the empty text's vector gives that text a vector.
    table[rarity == 0] += 1e-2 * _SCALE * math.sqrt(table.shape[1]) * empty.astype(np.float32)
    return table if len(texts) < _LEAST_TEXTS else _train(texts, table, rarity, progress)


def _start(texts: TeacherTexts, embeddings: Rows, rarity: Rows) -> Rows:
    """Ridge regression of rarity-weighted sums of embeddings."""
    weighted = embeddings * rarity[:, None]
    moments = CrossMoments(embeddings.shape[1], texts.vectors.shape[1])
    for start in range(0, len(texts), _RIDGE_ROWS):
        first, last = start, min(start + _RIDGE_ROWS, len(texts))
        bounds = texts.starts[first : last + 1]
        sums = np.add.reduceat(weighted[texts.flat[bounds[0] : bounds[-1]]], bounds[:-1] - bounds[0], axis=0)
        filled = np.linalg.norm(sums, axis=1) > 0
        moments.add(unit_rows(sums[filled]), texts.vectors[first:last][filled].astype(np.float32))
    table: Rows = (weighted @ moments.solve(1e-3).T).astype(np.float32)
    return table * np.float32(_SCALE / np.sqrt(np.square(table[rarity > 0], dtype=np.float64).mean()))


def _train(texts: TeacherTexts, table: Rows, rarity: Rows, progress: Progress) -> Rows:
    """Train the rows of tokens that occur; returns the table of the epoch with the lowest held-out loss.

    Tokens of every text keep their rows. Trained, they would give all vectors a common part, which the full model's
    vectors do not have, and queries would find less in an index of these.
    """
    random = np.random.default_rng(_SEED)
    order = random.permutation(len(texts))
    held_out = min(len(texts) // _HELD_OUT, _MOST_HELD_OUT)
    checked, seen = order[:held_out], order[held_out:]
    used, compact = np.unique(texts.flat, return_inverse=True)
    known = TeacherTexts(compact.astype(np.int32), texts.starts, texts.vectors)
    weights = torch.from_numpy(table[used]).requires_grad_()
    fixed = torch.from_numpy(rarity[used] == 0)
    epochs = min(max(round(_SEEN / len(seen)), _LEAST_EPOCHS), _MOST_EPOCHS)
    batches = math.ceil(len(seen) / _BATCH)
    optimizer = torch.optim.Adam([weights], lr=_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    dims = [dim for dim in default_dims(table.shape[1]) if dim >= _SHORTEST_PREFIX] or [table.shape[1]]
    best, lowest = weights.detach().clone(), _check(weights, known, checked, dims)
    done = 0
    progress("train table", done, epochs * batches)
    for _ in range(epochs):
        shuffled = random.permutation(seen)
        for places in np.array_split(shuffled, batches):
            optimizer.zero_grad()
            index = texts.vectors[np.sort(random.choice(seen, min(_INDEX, len(seen))))]
            _loss(weights, known, places, dims, index).backward()  # type: ignore[no-untyped-call]
            assert weights.grad is not None
            weights.grad[fixed] = 0
            optimizer.step()
            schedule.step()
            done += 1
            progress("train table", done, epochs * batches)
        now = _check(weights, known, checked, dims)
        if now < lowest:
            best, lowest = weights.detach().clone(), now
    trained = table.copy()
    trained[used] = best.numpy()
    return trained


def _check(weights: Tensor, texts: TeacherTexts, places: NDArray[np.int64], dims: Sequence[int]) -> float:
    parts = np.array_split(places, math.ceil(len(places) / _BATCH))
    with torch.no_grad():
        return float(np.mean([_loss(weights, texts, part, dims, texts.vectors[:0]).item() for part in parts]))


def _loss(
    weights: Tensor,
    texts: TeacherTexts,
    places: NDArray[np.int64],
    dims: Sequence[int],
    index: NDArray[np.floating],
) -> Tensor:
    """The mean over prefixes of three terms: one minus cosine, and the divergence of two kinds of similarities.

    The first kind is between the texts, the second to the full model's vectors of the texts and of an index.
    """
    rows = texts.rows(places)
    starts = torch.from_numpy(np.cumsum([0, *(len(row) for row in rows[:-1])]))
    vectors = embedding_bag(torch.from_numpy(np.concatenate(rows)).long(), weights, starts, mode="sum")
    teacher = torch.from_numpy(texts.vectors[places].astype(np.float32))
    searched = torch.cat([teacher, torch.from_numpy(index.astype(np.float32))])
    losses = []
    for dim in dims:
        mine, theirs = normalize(vectors[:, :dim], dim=-1), normalize(teacher[:, :dim], dim=-1)
        cosine = 1 - (mine * theirs).sum(-1).mean()
        within = _divergence(mine @ mine.T, teacher @ teacher.T, same=True)
        prefixes = normalize(searched[:, :dim], dim=-1)
        across = _divergence(mine @ prefixes.T, teacher @ searched.T, same=False)
        losses.append(cosine + within + across)
    return torch.stack(losses).mean()


def _divergence(found: Tensor, wanted: Tensor, same: bool) -> Tensor:
    """Divergence of the softmax of similarities [batch, texts]; ``same`` leaves out those of a text with itself."""
    if same:
        diagonal = torch.eye(len(found), dtype=torch.bool)
        found, wanted = found.masked_fill(diagonal, -1), wanted.masked_fill(diagonal, -1)
    return kl_div(
        log_softmax(found * _TEMPERATURE, dim=-1), softmax(wanted * _TEMPERATURE, dim=-1), reduction="batchmean"
    )
