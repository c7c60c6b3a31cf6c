"""Trainable projections of the exits into the full model's embedding space."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import linear

from ese_deploy.backbones.exits import join_states
from ese_deploy.losses.exits import model_parts, pooled_states
from ese_deploy.projections.projection import Projection, input_states
from ese_deploy.projections.ridge import fit_ridge_projections
from ese_deploy.system.progress import Progress, silent

__all__ = ["ExitProjections", "blank_projections", "fit_projections"]

_CHARACTERS = 16_384
_WINDOW = 2048


class ExitProjections(nn.Module):
    """A trainable matrix for each exit and for the full depth.

    Args:
        projections: the initial projection of each exit and of the full depth.

    Attributes:
        reads: the layers whose states some projection reads, ascending.
        components: float32 [width, width], the full depth's initial projection, which is not trained: it rotates the
            teacher's vectors.
    """

    components: Tensor

    def __init__(self, projections: Mapping[int, Projection]) -> None:
        super().__init__()
        self.depth = max(projections)
        self._states = {depth: projection.states for depth, projection in projections.items() if depth != self.depth}
        self.reads = tuple(sorted({state for states in self._states.values() for state in states}))
        self.matrices = nn.ParameterDict(
            {
                _name(depth): nn.Parameter(torch.from_numpy(projection.matrix.copy()))
                for depth, projection in projections.items()
            }
        )
        self.register_buffer("components", torch.from_numpy(projections[self.depth].matrix.copy()))

    def forward(self, pooled: Mapping[int, Tensor], full: Tensor) -> dict[int, Tensor]:
        """Project every exit.

        Args:
            pooled: float32 [n, pooled] for each layer of ``reads``.
            full: float32 [n, width], the full model's vectors.

        Returns:
            float32 [n, width] for each exit and the full depth.
        """
        projected = {
            depth: linear(join_states([pooled[state] for state in states]), self.matrices[_name(depth)])
            for depth, states in self._states.items()
        }
        return {**projected, self.depth: linear(full, self.matrices[_name(self.depth)])}

    def rotate(self, vectors: Tensor) -> Tensor:
        """Rotate the teacher's vectors, [n, width], onto its principal components."""
        return linear(vectors, self.components)

    def export(self) -> dict[int, Projection]:
        """A copy of the present projections."""
        return {
            depth: Projection(self.matrices[_name(depth)].detach().cpu().numpy().copy(), self._states.get(depth, ()))
            for depth in sorted({*self._states, self.depth})
        }


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
            {depth: join_states([pooled[state] for state in states]).cpu().numpy() for depth, states in read.items()},
            full.cpu().numpy(),
        )
        for pooled, full in _vectors(model, chosen, max_length, needed, progress)
    )
    return fit_ridge_projections(
        parts.depth, parts.width, read, batches, trained=trained, share=share, restore=bool(trained)
    )


def blank_projections(model: SentenceTransformer, exits: Sequence[int]) -> dict[int, Projection]:
    """Projections of the right shapes without content, for a run that resumes with those that it saved."""
    parts = model_parts(model)
    config: Any = parts.backbone.config
    pooled = int(config.hidden_size) * (parts.pooling.count("+") + 1)
    states = {depth: input_states(depth) for depth in exits if depth != parts.depth}
    projections = {
        depth: Projection(torch.zeros(parts.width, pooled * len(of)).numpy(), of) for depth, of in states.items()
    }
    return {**projections, parts.depth: Projection(torch.eye(parts.width).numpy())}


@torch.no_grad()
def _vectors(
    model: SentenceTransformer, texts: Sequence[str], max_length: int, states: Sequence[int], progress: Progress
) -> Iterable[tuple[dict[int, Tensor], Tensor]]:
    parts = model_parts(model)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    progress("fit projections", 0, len(texts))
    for first in range(0, len(texts), _WINDOW):
        for batch in _batches(texts[first : first + _WINDOW]):
            features = model.preprocess(batch, max_length=max_length)
            for name, value in features.items():
                features[name] = value.to(device) if isinstance(value, Tensor) else value
            yield pooled_states(model, parts, features, states)
        progress("fit projections", min(first + _WINDOW, len(texts)), len(texts))
    model.train(training)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Batches of similar length: many short texts or few long ones."""
    batch: list[str] = []
    for text in sorted(texts, key=len):
        if batch and (len(batch) + 1) * len(text) > _CHARACTERS:
            yield batch
            batch = []
        batch.append(text)
    yield batch
