"""Combines AnglE's losses for each format of training data."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ese_deploy.errors import InputError
from ese_deploy.losses.angle import angle_loss, contrastive_loss, cosine_loss, in_batch_negative_loss

__all__ = ["LOSS_VERSIONS", "AngleObjective", "LossVersion", "angle_objective"]

LossVersion = Literal["0.6", "paper"]
LOSS_VERSIONS: tuple[LossVersion, ...] = ("0.6", "paper")


@dataclass(frozen=True)
class AngleObjective:
    """Weights and factors of AnglE's losses, named as in the authors' command.

    Their effect depends on the format of the data:

    - A, (text1, text2, label): ``cosine_w`` CoSENT + ``ibn_w`` in-batch negatives + ``angle_w`` angle.
    - B, (query, positive): in-batch negatives with ``ibn_tau``. Weights do not apply.
    - C, (query, positive, negative): ``(ibn_w B + cln_w hard) / 2 + angle_w`` angle ``+ cosine_w`` CoSENT. ``hard``
      adds the negatives to the candidates; angle and CoSENT label (query, positive) 1 and (query, negative) 0.

    Attributes:
        cosine_w: weight of the CoSENT loss.
        ibn_w: weight of in-batch negatives.
        cln_w: weight of in-batch negatives with hard negatives; format C.
        angle_w: weight of the angle loss.
        cosine_tau: factor of the cosines in the CoSENT loss.
        ibn_tau: factor of the cosines among in-batch negatives.
        angle_tau: factor of the angle's scores.
        loss_version: ``0.6``: as above. ``paper``: format C before January 2025, ``ibn_w hard + angle_w`` angle
            ``+ cosine_w`` CoSENT, which the published ESE command assumes.
        mask_false_negatives: exclude in-batch negatives that equal the query or its positive, or are a positive of the
            same query; formats B and C. The authors' code does not.
    """

    cosine_w: float = 0.0
    ibn_w: float = 1.0
    cln_w: float = 1.0
    angle_w: float = 0.02
    cosine_tau: float = 20.0
    ibn_tau: float = 20.0
    angle_tau: float = 20.0
    loss_version: LossVersion = "0.6"
    mask_false_negatives: bool = True

    def __post_init__(self) -> None:
        if self.loss_version not in LOSS_VERSIONS:
            raise InputError(f"Unknown loss_version '{self.loss_version}'. Choose one of: {', '.join(LOSS_VERSIONS)}.")
        check_weights(self)
        for name in ("cosine_tau", "ibn_tau", "angle_tau"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}. It must be finite and above 0; 20 is common.")


def check_weights(settings: Any) -> None:
    """Check the weights of a loss: the fields of a dataclass whose names end in ``_w``.

    Raises:
        InputError: a weight is negative or not finite.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name.endswith("_w") and not 0 <= value < math.inf:
            raise InputError(f"{field.name} is {value}. A weight is at least 0, and 0 turns its part off.")


def angle_objective(
    objective: AngleObjective,
    columns: Sequence[Tensor],
    labels: Tensor | None = None,
    keys: Sequence[Tensor] | None = None,
) -> Tensor:
    """The objective of one batch.

    Args:
        objective: weights and factors.
        columns: float [n, d] for each column of texts: two with labels (format A), two without (B), or a query, its
            positive and one or more negatives (C).
        labels: [n] or [n, 1]; higher for more similar pairs.
        keys: int64 [n] for each column, equal for equal texts; needed to mask false negatives.

    Returns:
        A scalar in the dtype of the columns.

    Raises:
        InputError: the columns match no format.
    """
    if len(columns) < 2:
        raise InputError(
            f"The objective needs text1, text2 and label, or query, positive and optionally negative. Got "
            f"{len(columns)} column of texts. Pass pairs, or train without labels."
        )
    first, second, *negatives = columns
    if labels is not None and not negatives:
        return _labelled(objective, first, second, labels.reshape(-1))
    ignored = _false_negatives(keys) if keys is not None and objective.mask_false_negatives else None
    if not negatives:
        return contrastive_loss(first, second, objective.ibn_tau, ignored)
    return _triplets(objective, first, second, negatives, ignored)


def _labelled(objective: AngleObjective, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    total = first.new_zeros(())
    if objective.cosine_w > 0:
        total = total + objective.cosine_w * cosine_loss(first, second, labels, objective.cosine_tau)
    if objective.ibn_w > 0:
        total = total + objective.ibn_w * in_batch_negative_loss(first, second, labels, objective.ibn_tau)
    if objective.angle_w > 0:
        total = total + objective.angle_w * angle_loss(first, second, labels, objective.angle_tau)
    return total


def _triplets(
    objective: AngleObjective, queries: Tensor, positives: Tensor, negatives: Sequence[Tensor], ignored: Tensor | None
) -> Tensor:
    count = len(queries)
    hard = contrastive_loss(queries, torch.cat([positives, *negatives]), objective.ibn_tau, ignored)
    if objective.loss_version == "paper":
        total = objective.ibn_w * hard
    else:
        easy_ignored = None if ignored is None else ignored[:, :count]
        easy = contrastive_loss(queries, positives, objective.ibn_tau, easy_ignored)
        total = (objective.ibn_w * easy + objective.cln_w * hard) / 2
    pairs = (
        queries.repeat(1 + len(negatives), 1),
        torch.cat([positives, *negatives]),
        (torch.arange(count * (1 + len(negatives)), device=queries.device) < count).int(),
    )
    if objective.angle_w > 0:
        total = total + objective.angle_w * angle_loss(*pairs, objective.angle_tau)
    if objective.cosine_w > 0:
        total = total + objective.cosine_w * cosine_loss(*pairs, objective.cosine_tau)
    return total


def _false_negatives(keys: Sequence[Tensor]) -> Tensor:
    """Bool [n, m]: candidates that equal the query or its positive, or are a positive of the same query."""
    queries, positives = keys[0], keys[1]
    candidates = torch.cat(list(keys[1:]))
    ignored = (candidates[None, :] == positives[:, None]) | (candidates[None, :] == queries[:, None])
    count = len(queries)
    ignored[:, :count] |= queries[None, :] == queries[:, None]
    ignored[:, :count].fill_diagonal_(False)
    return ignored
