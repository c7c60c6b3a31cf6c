"""The default variant: exits that learn from the full model, by similarities that no rotation changes."""

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
"""A depth and a dim."""

TEACHERS = ("frozen", "self")


@dataclass(frozen=True)
class EspressoSettings:
    """Weights and sampling of the default variant.

    Attributes:
        express_w: the objective on labelled data at every sampled cell; nothing where there is no objective.
        distill_w: similarities of every sampled cell against those of the teacher's full vectors.
        compress_w: similarities of every sampled prefix against those of as many principal components of the teacher.
        hold_w: similarities and directions of the full model against the frozen teacher's; beside labels it earned
            nothing, since the full model's prefixes are distilled anyway.
        train_full: whether the full model is trained and held beside the cells; without it only the cells are, for a
            model of few sizes.
        align_w: directions of every shallower cell against the full model's of the step, and its similarities to that
            model's vectors against the teacher's; then queries of one exit can search documents of another.
        temperature: factor of the cosines before the softmax.
        teacher: ``frozen``, a copy of the model as it was when training began, or ``self``, the full model of the
            step, without gradient; then nothing holds the full model but the objective.
        cells_per_step: how many (exit, prefix) are drawn in each step; None takes all.
        covariance_momentum: share of the past that one batch leaves in the running covariance.
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
            raise InputError(f"teacher '{self.teacher}' is unknown; choose one of {', '.join(TEACHERS)}")
        check_weights(self)
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature is {self.temperature}; it multiplies cosines and must be above 0 and finite")
        if self.cells_per_step is not None and self.cells_per_step < 1:
            raise InputError(f"cells_per_step is {self.cells_per_step}; it must be at least 1, or left out for all")
        if not 0 <= self.covariance_momentum < 1:
            raise InputError(f"covariance_momentum is {self.covariance_momentum}; it must be at least 0 and below 1")


@dataclass(frozen=True)
class Targets:
    """What the exits learn from, without gradient.

    Attributes:
        vectors: float [n, width], the teacher's full vectors.
        components: float [width, width], its principal components, a column each.
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
    """The parts of the loss; their sum is the loss.

    Each cell has the same weight. The full model is trained by the objective and held to the teacher, unless
    ``train_full`` is off.

    Args:
        exits: float [n, width] by depth, the full depth included.
        cells: what is trained in this step besides the full model.
        targets: of the teacher.
        settings: weights.
        objective: the loss of AnglE, or None without labels.

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
    """The similarities of every cell against the teacher's, and against those of its principal components."""
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
    """How far every cell is from the full model's prefix of its dim, and from finding there what the teacher finds.

    The full model stays where it is: an index that it made is what the shallower exits' queries have to fit.
    """
    full = exits[max(exits)].detach()
    wanted = similarity_logits(targets.vectors, temperature)
    losses = []
    for depth, dim in cells:
        vectors, index = exits[depth][:, :dim], full[:, :dim]
        losses.append(_away(vectors, index) + _kl(similarity_logits(vectors, temperature, index), wanted))
    return torch.stack(losses).mean()


def _away(vectors: Tensor, targets: Tensor) -> Tensor:
    """One minus the cosine of each vector with its target, the mean over texts."""
    return 1 - (normalize(vectors, dim=-1) * normalize(targets, dim=-1)).sum(-1).mean()


def similarity_logits(vectors: Tensor, temperature: float, index: Tensor | None = None) -> Tensor:
    """Cosines of all pairs times the temperature, without a text's own: float [n, n - 1].

    Args:
        vectors: float [n, k].
        temperature: factor of the cosines.
        index: float [n, k], other vectors of the same texts to compare with; None compares vectors among themselves.
    """
    count = len(vectors)
    unit = normalize(vectors, dim=-1)
    found = unit if index is None else normalize(index, dim=-1)
    others = ~torch.eye(count, dtype=torch.bool, device=vectors.device)
    return (temperature * unit @ found.T)[others].view(count, max(count - 1, 0))


def similarity_kl(vectors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """How far each text's neighbourhood is from the teacher's.

    KL(softmax(teacher's similarities) || softmax(similarities)) over the other texts of the batch, the mean over
    texts. It does not depend on the basis of either space.

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
        InputError: one is unknown or not fit.
    """
    known = [field.name for field in fields(EspressoSettings)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(f"the loss has no setting '{unknown[0]}'; it has: {', '.join(known)}")
    return EspressoSettings(**settings)
