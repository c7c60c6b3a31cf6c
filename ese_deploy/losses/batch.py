"""Shared by all losses: bind the objective to the texts of a batch, and stop when a value is not finite."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ese_deploy.errors import InputError, TrainingError
from ese_deploy.losses.exits import text_keys
from ese_deploy.losses.gather import gather
from ese_deploy.losses.objective import AngleObjective, angle_objective

__all__ = ["bind_objective", "check_finite", "check_learns", "check_parameters"]

_ADVICE = "Start again with a lower learning rate or without fp16."


def bind_objective(
    objective: AngleObjective, sizes: list[int], features: Sequence[Mapping[str, Any]], labels: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """The objective as a function of the vectors of all columns, concatenated along the batch."""
    joined = None if labels is None else gather(labels.reshape(-1))
    masks = objective.mask_false_negatives and not (joined is not None and len(sizes) == 2)
    keys = [gather(text_keys(column)) for column in features] if masks else None

    def apply(vectors: Tensor) -> Tensor:
        return angle_objective(objective, torch.split(vectors, sizes), joined, keys)

    return apply


def check_learns(parts: Mapping[str, Tensor]) -> None:
    """Stop if no part of the loss (scalars by name) has a gradient although gradients are enabled.

    Raises:
        InputError: nothing would be learnt.
    """
    if torch.is_grad_enabled() and not any(part.requires_grad for part in parts.values()):
        raise InputError(
            "Nothing is learnt: every weight of the loss that applies to this data is 0. Raise one of them."
        )


def check_finite(parts: Mapping[str, Tensor], step: int) -> None:
    """Stop if a part of the loss is not finite.

    Args:
        parts: scalars by name.
        step: number of optimiser steps done.

    Raises:
        TrainingError: a part is NaN or infinite.
    """
    if bool(torch.isfinite(torch.stack([part.detach().float() for part in parts.values()])).all()):
        return
    name = next(name for name, part in parts.items() if not bool(torch.isfinite(part)))
    raise TrainingError(f"Step {step + 1}: the part '{name}' of the loss is {float(parts[name].detach())}. {_ADVICE}")


def check_parameters(loss: nn.Module) -> None:
    """Stop if a parameter of the loss or of its model is not finite.

    Raises:
        TrainingError: one is NaN or infinite.
    """
    for name, parameter in loss.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingError(f"The parameter '{name}' is no longer finite. {_ADVICE}")
