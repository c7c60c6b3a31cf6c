"""What a run will do, before its first step."""

import math
from typing import Any

from ese_deploy.losses import AngleLoss, EseLoss
from ese_deploy.training.settings import TrainingSettings

__all__ = ["fit_lines", "plan_lines", "warm_up_warning"]


def warm_up_warning(warm_up: int, steps: int) -> str:
    """Why a warm-up is too long; an empty string where it is not.

    Args:
        warm_up: steps until the full learning rate.
        steps: of the whole run.
    """
    if not 0 < steps <= warm_up:
        return ""
    return (
        f"The warm-up of {warm_up} steps does not end within the run of {steps}: the learning rate stays below the one "
        f"that is set. Use `warmup_steps={max(1, steps // 10)}`."
    )


def fit_lines(loss: EseLoss, settings: TrainingSettings, texts: int) -> list[str]:
    """What a run without training of the layers would do, one line each.

    Args:
        loss: with projections.
        settings: of the run.
        texts: number of texts to fit on.
    """
    features = ", ".join(sorted(loss.token_features)) or "none"
    return [
        f"Dry run: no layer is trained. Projections would be fitted on {texts:,} texts; token features: {features}.",
        f"Exits that are fitted: {', '.join(map(str, loss.exits))}.",
        f"Nothing was written. Without `dry_run`, the model goes into {settings.out}.",
    ]


def plan_lines(trainer: Any, loss: EseLoss | AngleLoss, settings: TrainingSettings, texts: int) -> list[str]:
    """What a run would do, one line each.

    Args:
        trainer: with its data.
        loss: of the trainer.
        settings: of the run.
        texts: number of texts that projections would be fitted on.
    """
    batches = len(trainer.get_train_dataloader())
    each = max(1, math.ceil(batches / settings.gradient_accumulation_steps))
    steps = settings.max_steps if settings.max_steps > 0 else math.ceil(each * settings.epochs)
    found = [
        f"Dry run: {steps:,} steps of {settings.batch_size} rows, {steps / each:.1f} passes over {batches:,} batches.",
    ]
    if isinstance(loss, EseLoss):
        found.append(f"Exits that are trained: {', '.join(map(str, loss.exits))}.")
        if loss.projections is not None:
            found.append(f"Projections would be fitted on up to {texts:,} texts.")
    warning = warm_up_warning(settings.warmup_steps, steps)
    if warning:
        found.append(f"Warning: {warning}")
    return [*found, f"Nothing was written. Without `dry_run`, the model goes into {settings.out}."]
