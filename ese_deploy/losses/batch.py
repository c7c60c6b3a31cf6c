"""What all losses do with a batch: bind the objective to its texts, and refuse what is not finite."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ese_deploy.errors import InputError, TrainingError
from ese_deploy.losses.exits import text_keys
from ese_deploy.losses.gather import gather
from ese_deploy.losses.objective import AngleObjective, angle_objective

__all__ = ["bind_objective", "check_finite", "check_learns", "check_parameters"]

_ADVICE = "begin anew with a lower learning rate, or without fp16"


def bind_objective(
    objective: AngleObjective, sizes: list[int], features: Sequence[Mapping[str, Any]], labels: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """The objective as a function of the vectors of all columns, one under another."""
    joined = None if labels is None else gather(labels.reshape(-1))
    masks = objective.mask_false_negatives and not (joined is not None and len(sizes) == 2)
    keys = [gather(text_keys(column)) for column in features] if masks else None

    def apply(vectors: Tensor) -> Tensor:
        return angle_objective(objective, torch.split(vectors, sizes), joined, keys)

    return apply


def check_learns(parts: Mapping[str, Tensor]) -> None:
    """Refuse a loss of which nothing is learnt.

    Args:
        parts: scalars by name.

    Raises:
        InputError: no part has a gradient, where gradients are wanted.
    """
    if torch.is_grad_enabled() and not any(part.requires_grad for part in parts.values()):
        raise InputError("nothing is learnt: every weight of the loss that this data could use is 0; raise one")


def check_finite(parts: Mapping[str, Tensor], step: int) -> None:
    """Refuse a loss that is not finite.

    Args:
        parts: scalars by name.
        step: optimiser steps done.

    Raises:
        TrainingError: a part is NaN or infinite.
    """
    if bool(torch.isfinite(torch.stack([part.detach().float() for part in parts.values()])).all()):
        return
    name = next(name for name, part in parts.items() if not bool(torch.isfinite(part)))
    raise TrainingError(f"step {step + 1}: the part '{name}' of the loss is {float(parts[name].detach())}; {_ADVICE}")


def check_parameters(loss: nn.Module) -> None:
    """Refuse parameters that are not finite.

    Args:
        loss: holds the model that it trains.

    Raises:
        TrainingError: one is NaN or infinite.
    """
    for name, parameter in loss.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise TrainingError(f"'{name}' is not finite any more; {_ADVICE}")
