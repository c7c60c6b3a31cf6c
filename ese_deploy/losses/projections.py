"""Trainable projections of the exits into the full model's embedding space."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, distributed, nn
from torch.nn.functional import embedding, linear

from ese_deploy.backbones.exits import join_states, weighted_sum
from ese_deploy.losses.exits import ModelParts, model_parts, pooled_states
from ese_deploy.losses.gather import world_size
from ese_deploy.losses.states import run_texts
from ese_deploy.projections.projection import Projection, input_states
from ese_deploy.projections.ridge import fit_ridge_projections
from ese_deploy.projections.tokens import TokenFeatures
from ese_deploy.system.progress import Progress, silent

__all__ = ["ExitProjections", "blank_projections", "fit_projections"]


class ExitProjections(nn.Module):
    """A trainable matrix for each exit and for the full depth, and the trainable table that they may read.

    Args:
        projections: the initial projection of each exit and of the full depth.
        parts: the parts of the model.

    Attributes:
        reads: the layers whose states some projection reads, ascending.
        components: float32 [width, width], the full depth's initial projection, which is not trained: it rotates the
            teacher's vectors.
        rarity: float32 [vocabulary], not trained; None if no projection reads it.
        table: float32 [vocabulary, width]; None if no projection reads it.
    """

    components: Tensor
    rarity: Tensor | None

    def __init__(self, projections: Mapping[int, Projection], parts: ModelParts) -> None:
        super().__init__()
        self.depth = max(projections)
        self._parts = parts
        self._states = {depth: projection.states for depth, projection in projections.items() if depth != self.depth}
        self.reads = tuple(sorted({state for states in self._states.values() for state in states}))
        tokens = _token_features(projections)
        self.register_buffer("rarity", None if tokens.rarity is None else torch.from_numpy(tokens.rarity.copy()))
        self.table = None if tokens.table is None else nn.Parameter(torch.from_numpy(tokens.table.copy()))
        if self.table is not None:
            self.table.register_hook(_mean_of_processes)  # type: ignore[no-untyped-call]
        self.matrices = nn.ParameterDict(
            {
                _name(depth): nn.Parameter(torch.from_numpy(projection.matrix.copy()))
                for depth, projection in projections.items()
                if not projection.is_lookup
            }
        )
        self.register_buffer("components", torch.from_numpy(projections[self.depth].matrix.copy()))

    def read(self, model: nn.Module, features: Mapping[str, Any]) -> Tensor:
        """Run the model: float32 [n, columns], everything that the projections read.

        Args:
            model: the SentenceTransformer, or the trainer's distributed wrapper of it.
            features: the collator's output for one column of texts.
        """
        ids, mask = features["input_ids"], features["attention_mask"]
        weights = None if self.rarity is None else self.rarity[ids] * mask
        found = pooled_states(model, self._parts, features, self.reads, weights)
        columns = [*found.states.values(), *found.weighted.values()]
        if self.table is not None:
            with torch.autocast(mask.device.type, enabled=False):
                columns.append(weighted_sum(embedding(ids, self.table), mask.to(self.table.dtype)))
        return torch.cat([*columns, found.vectors], dim=1)

    def forward(self, columns: Tensor) -> dict[int, Tensor]:
        """Project every exit.

        Args:
            columns: of :meth:`read`.

        Returns:
            float32 [n, width] for each exit and the full depth.
        """
        of_states, width = len(self.reads), self._parts.width
        sizes = [self._parts.pooled] * of_states + [self._parts.hidden] * (of_states if self.rarity is not None else 0)
        sizes += [width] * (2 if self.table is not None else 1)
        *parts, full = torch.split(columns, sizes, dim=1)
        sums = parts.pop() if self.table is not None else None
        places = {state: place for place, state in enumerate(self.reads)}
        projected = {}
        for depth, states in self._states.items():
            if _name(depth) not in self.matrices:
                assert sums is not None
                projected[depth] = sums
                continue
            rows = [parts[places[state] + first] for first in range(0, len(parts), of_states) for state in states]
            joined = join_states(rows if sums is None else [*rows, sums])
            projected[depth] = linear(joined, self.matrices[_name(depth)])
        return {**projected, self.depth: linear(full, self.matrices[_name(self.depth)])}

    def rotate(self, vectors: Tensor) -> Tensor:
        """Rotate the teacher's vectors, [n, width], onto its principal components."""
        return linear(vectors, self.components)

    def export(self) -> dict[int, Projection]:
        """A copy of the present projections."""
        tokens, lookup = self._export_tokens(), np.eye(self._parts.width, dtype=np.float32)
        found = {}
        for depth, states in sorted(self._states.items()):
            matrix = _array(self.matrices[_name(depth)]) if _name(depth) in self.matrices else lookup
            found[depth] = Projection(matrix, states, tokens)
        return {**found, self.depth: Projection(_array(self.matrices[_name(self.depth)]))}

    def _export_tokens(self) -> TokenFeatures | None:
        """None if no projection reads any."""
        if self.rarity is None and self.table is None:
            return None
        return TokenFeatures(
            None if self.rarity is None else _array(self.rarity), None if self.table is None else _array(self.table)
        )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().numpy().copy()
    return array


def _token_features(projections: Mapping[int, Projection]) -> TokenFeatures:
    found = [projection.tokens for projection in projections.values() if projection.tokens is not None]
    return found[0] if found else TokenFeatures()


def _mean_of_processes(gradient: Tensor) -> Tensor:
    """The mean over processes, as DistributedDataParallel takes it for the parameters of the model."""
    if world_size() > 1:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        gradient = gradient / world_size()
    return gradient


def _name(depth: int) -> str:
    return f"exit{depth:02d}"


def fit_projections(
    model: SentenceTransformer,
    texts: Iterable[str],
    exits: Sequence[int],
    max_length: int,
    progress: Progress = silent,
    trained: Mapping[int, Projection] = MappingProxyType({}),
    share: float = 1.0,
) -> dict[int, Projection]:
    """Fit projections onto the full model's vectors of plain texts, by ridge regression.

    Args:
        model: on the device where it is to compute; it is not changed.
        texts: thousands of texts of all kinds that the model will embed.
        exits: depths to fit.
        max_length: longest text in tokens.
        progress: called between batches.
        trained: projections after training. Fitted ones are mixed into them, and each component is scaled to the mean
            square that it has in the full model. Leave it out before training.
        share: weight of the fitted projections in that mixture, 0 to 1.

    Returns:
        A projection for each exit and for the full depth.

    Raises:
        InputError: there are fewer texts than twice the width.
    """
    parts = model_parts(model)
    chosen = list(dict.fromkeys(texts))
    read = {depth: input_states(depth) for depth in exits if depth != parts.depth}
    needed = sorted({state for states in read.values() for state in states})
    batches = (
        (
            {depth: join_states([found.states[one] for one in states]).cpu().numpy() for depth, states in read.items()},
            found.vectors.cpu().numpy(),
        )
        for _, found in run_texts(model, chosen, max_length, needed, progress)
    )
    return fit_ridge_projections(
        parts.depth, parts.width, read, batches, trained=trained, share=share, restore=bool(trained)
    )


def blank_projections(
    model: SentenceTransformer, exits: Sequence[int], features: Collection[str] = ()
) -> dict[int, Projection]:
    """Projections of the right shapes without content, for a run that resumes with those that it saved.

    Args:
        model: the model.
        exits: the exits; 0 needs the feature ``table``.
        features: of :data:`ese_deploy.projections.tokens.TOKEN_FEATURES`.
    """
    parts = model_parts(model)
    backbone: Any = parts.backbone
    width = parts.width
    vocabulary = len(backbone.get_input_embeddings().weight)
    tokens = TokenFeatures(
        np.zeros(vocabulary, np.float32) if "rarity" in features else None,
        np.zeros((vocabulary, width), np.float32) if "table" in features else None,
    )
    each = parts.pooled + (parts.hidden if "rarity" in features else 0)
    projections = {}
    for depth in exits:
        if depth == 0:
            projections[0] = Projection(np.eye(width, dtype=np.float32), (), tokens)
        elif depth != parts.depth:
            states = input_states(depth)
            inputs = each * len(states) + (width if "table" in features else 0)
            projections[depth] = Projection(np.zeros((width, inputs), np.float32), states, tokens if features else None)
    return {**projections, parts.depth: Projection(np.eye(width, dtype=np.float32))}
