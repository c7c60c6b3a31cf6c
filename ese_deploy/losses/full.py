"""The objective of AnglE on the full model, without exits."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from ese_deploy.losses.batch import bind_objective, check_finite, check_learns
from ese_deploy.losses.gather import gather
from ese_deploy.losses.objective import AngleObjective
from ese_deploy.losses.pieces import compute_in_pieces

__all__ = ["AngleLoss"]


class AngleLoss(nn.Module):
    """The objective of AnglE on the full model, without exits.

    Args:
        model: a sentence-transformers model.
        objective: weights and factors.
    """

    def __init__(self, model: SentenceTransformer, objective: AngleObjective | None = None) -> None:
        super().__init__()
        self.model = model
        self.objective = objective or AngleObjective()
        self.global_step = 0

    def forward(
        self, sentence_features: Iterable[Mapping[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss of one batch, as ``{"express": scalar}``; same arguments as :meth:`EseLoss.forward`.

        Raises:
            TrainingError: it is not finite.
        """
        features = list(sentence_features)
        columns = [gather(vectors) for vectors in compute_in_pieces(features, self._vectors)]
        with torch.autocast(columns[0].device.type, enabled=False):
            loss = bind_objective(self.objective, [len(column) for column in columns], features, labels)(
                torch.cat(columns)
            )
        parts = {"express": loss}
        check_learns(parts)
        check_finite(parts, self.global_step)
        return parts

    def _vectors(self, features: Mapping[str, Any]) -> Tensor:
        vectors: Tensor = self.model(dict(features))["sentence_embedding"]
        return vectors.float()
