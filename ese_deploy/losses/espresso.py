"""The default variant: exits learn the full model's similarities, which do not depend on the basis."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from ese_deploy.errors import InputError
from ese_deploy.losses.objective import check_weights

__all__ = [
    "TEACHERS",
    "Cell",
    "EspressoSettings",
    "Targets",
    "espresso_parts",
    "espresso_settings",
    "similarity_kl",
    "similarity_logits",
]

Cell = tuple[int, int]
"""(depth, dim)."""

TEACHERS = ("frozen", "self")


@dataclass(frozen=True)
class EspressoSettings:
    """Weights and sampling of the default variant.

    Attributes:
        express_w: weight of the objective on labelled data, at every cell of the step.
        distill_w: weight of matching the similarities of the teacher's full vectors, at every cell of the step.
        compress_w: weight of matching the similarities of the teacher's leading principal components, at every prefix
            of the step.
        hold_w: weight of keeping the full model's similarities and directions at the frozen teacher's. It improved
            nothing together with labels: the full model's prefixes are distilled anyway.
        train_full: whether the full model is trained besides the cells. False suits a model of few sizes.
        align_w: weight of matching, at every shallower cell, the full model's directions and the teacher's similarities
            to its vectors. Queries of one exit can then search documents of another.
        temperature: factor of the cosines before the softmax.
        teacher: ``frozen``, a copy of the model before training, or ``self``, the model's own full depth without
            gradient, where only the objective holds the full model.
        cells_per_step: number of (exit, prefix) pairs drawn in each step; None takes all.
        covariance_momentum: weight of earlier batches in the running covariance.
    """

    express_w: float = 0.5
    distill_w: float = 1.0
    compress_w: float = 1.0
    hold_w: float = 0.0
    train_full: bool = True
    align_w: float = 0.0
    temperature: float = 20.0
    teacher: Literal["frozen", "self"] = "frozen"
    cells_per_step: int | None = None
    covariance_momentum: float = 0.99

    def __post_init__(self) -> None:
        if self.teacher not in TEACHERS:
            raise InputError(f"Unknown teacher '{self.teacher}'. Choose one of: {', '.join(TEACHERS)}.")
        check_weights(self)
        if not 0 < self.temperature < math.inf:
            raise InputError(
                f"temperature is {self.temperature}. It multiplies cosines: it must be finite and above 0."
            )
        if self.cells_per_step is not None and self.cells_per_step < 1:
            raise InputError(
                f"cells_per_step is {self.cells_per_step}. It must be at least 1; leave it out to take all."
            )
        if not 0 <= self.covariance_momentum < 1:
            raise InputError(f"covariance_momentum is {self.covariance_momentum}. It must be at least 0 and below 1.")


@dataclass(frozen=True)
class Targets:
    """What the exits learn, without gradient.

    Attributes:
        vectors: float [n, width], the teacher's full vectors.
        components: float [width, width], its principal components as columns.
    """

    vectors: Tensor
    components: Tensor


def espresso_parts(
    exits: Mapping[int, Tensor],
    cells: Sequence[Cell],
    targets: Targets,
    settings: EspressoSettings,
    objective: Callable[[Tensor], Tensor] | None,
) -> dict[str, Tensor]:
    """The parts of the loss; their sum is the loss. All cells have the same weight.

    Args:
        exits: float [n, width] by depth, the full depth included.
        cells: what is trained in this step besides the full model.
        targets: the teacher's vectors and components.
        settings: weights.
        objective: the loss of AnglE; None without labels.

    Returns:
        Scalars by name.
    """
    full = exits[max(exits)]
    parts: dict[str, Tensor] = {}
    if objective is not None and settings.express_w > 0:
        losses = [objective(full)] if settings.train_full else []
        losses += [objective(exits[depth][:, :dim]) for depth, dim in cells]
        parts["express"] = settings.express_w * torch.stack(losses).mean() if losses else full.new_zeros(())
    if settings.hold_w > 0 and settings.train_full:
        held = similarity_kl(full, targets.vectors, settings.temperature)
        parts["hold"] = settings.hold_w * (held + _away(full, targets.vectors))
    if cells and (settings.distill_w > 0 or settings.compress_w > 0):
        parts |= _learn(exits, cells, targets, settings)
    shallow = [cell for cell in cells if cell[0] < max(exits)]
    if shallow and settings.align_w > 0:
        parts["align"] = settings.align_w * _align(exits, shallow, targets, settings.temperature)
    return parts


def _learn(
    exits: Mapping[int, Tensor], cells: Sequence[Cell], targets: Targets, settings: EspressoSettings
) -> dict[str, Tensor]:
    """``distill`` and ``compress``: KL of every cell's similarities to the teacher's."""
    width = targets.vectors.shape[1]
    unit = normalize(targets.vectors, dim=-1)
    wanted = similarity_logits(unit, settings.temperature)
    narrow = sorted({dim for _, dim in cells if dim < width}) if settings.compress_w > 0 else []
    by_dim = {dim: similarity_logits(unit @ targets.components[:, :dim], settings.temperature) for dim in narrow}
    distilled, compressed = [], []
    for depth, dim in cells:
        logits = similarity_logits(exits[depth][:, :dim], settings.temperature)
        distilled.append(_kl(logits, wanted))
        if dim in by_dim:
            compressed.append(_kl(logits, by_dim[dim]))
    parts = {}
    if settings.distill_w > 0:
        parts["distill"] = settings.distill_w * torch.stack(distilled).mean()
    if compressed:
        parts["compress"] = settings.compress_w * torch.stack(compressed).mean()
    return parts


def _align(exits: Mapping[int, Tensor], cells: Sequence[Cell], targets: Targets, temperature: float) -> Tensor:
    """Distance of every cell to the full model's prefix, plus KL of its similarities to the full model's vectors."""
    # No gradient for the full model: its index must stay valid for the shallower exits' queries.
    full = exits[max(exits)].detach()
    wanted = similarity_logits(targets.vectors, temperature)
    losses = []
    for depth, dim in cells:
        vectors, index = exits[depth][:, :dim], full[:, :dim]
        losses.append(_away(vectors, index) + _kl(similarity_logits(vectors, temperature, index), wanted))
    return torch.stack(losses).mean()


def _away(vectors: Tensor, targets: Tensor) -> Tensor:
    """One minus the cosine of each vector with its target, averaged over texts."""
    return 1 - (normalize(vectors, dim=-1) * normalize(targets, dim=-1)).sum(-1).mean()


def similarity_logits(vectors: Tensor, temperature: float, index: Tensor | None = None) -> Tensor:
    """Cosines of all pairs of different texts, times the temperature: float [n, n - 1].

    Args:
        vectors: float [n, k].
        temperature: factor of the cosines.
        index: float [n, k], other vectors of the same texts to compare with; None means ``vectors``.
    """
    count = len(vectors)
    unit = normalize(vectors, dim=-1)
    found = unit if index is None else normalize(index, dim=-1)
    others = ~torch.eye(count, dtype=torch.bool, device=vectors.device)
    return (temperature * unit @ found.T)[others].view(count, max(count - 1, 0))


def similarity_kl(vectors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher's similarities) || softmax(similarities)) over the other texts of the batch.

    The mean over texts. It does not depend on the basis of either embedding space.

    Args:
        vectors: float [n, k].
        targets: float [n, d], without gradient.
        temperature: factor of the cosines.
    """
    return _kl(similarity_logits(vectors, temperature), similarity_logits(targets.detach(), temperature))


def _kl(logits: Tensor, wanted: Tensor) -> Tensor:
    log_wanted = log_softmax(wanted, dim=-1)
    divergence = (log_wanted.exp() * (log_wanted - log_softmax(logits, dim=-1))).sum(-1)
    return divergence.mean() if len(divergence) else divergence.sum()


def espresso_settings(settings: Mapping[str, Any]) -> EspressoSettings:
    """Settings from keywords.

    Raises:
        InputError: a setting is unknown or out of range.
    """
    known = [field.name for field in fields(EspressoSettings)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(f"Unknown setting '{unknown[0]}' of the loss. Choose from: {', '.join(known)}.")
    return EspressoSettings(**settings)
