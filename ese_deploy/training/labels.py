"""What training will see: the labels, and a few rows."""

import logging
from collections.abc import Sequence

import numpy as np

from ese_deploy.errors import InputError
from ese_deploy.losses import AngleObjective
from ese_deploy.training.data import TrainingData
from ese_deploy.training.settings import TrainingSettings

__all__ = ["check_labels", "examples"]

logger = logging.getLogger(__name__)

_EXAMPLES = 3
_CHARACTERS = 60


def check_labels(settings: TrainingSettings, data: Sequence[TrainingData]) -> None:
    """Check that the objective can read the labels.

    Raises:
        InputError: labels are scores, and the settings do not choose an objective for them.
    """
    objective = AngleObjective(**settings.objective())
    scored = [part for part in data if "label" in part.layout.columns]
    labels = np.concatenate([np.asarray(part.dataset["label"]) for part in scored]) if scored else np.zeros(0)
    if not objective.ibn_w or np.isin(labels, (0, 1)).all():
        return
    found = f"The labels are scores from {labels.min():g} to {labels.max():g}"
    if settings.ibn_w is None:
        raise InputError(
            f"{found}, but the default objective reads only 0 and 1. Train on scores with `cosine_w` 1 and `ibn_w` 0, "
            "or without them with `label_free`."
        )
    logger.warning("%s. In-batch negatives (`ibn_w`) cut them to whole numbers.", found)


def examples(data: TrainingData) -> list[str]:
    """The first rows as training reads them, one line each; long texts are shortened."""
    rows = data.dataset[:_EXAMPLES]
    count = min(_EXAMPLES, len(data.dataset))
    return [
        f"  row {row + 1}: " + ", ".join(f"{name} {_short(rows[name][row])}" for name in data.layout.columns)
        for row in range(count)
    ]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value[0]) if isinstance(value, list) else str(value)
    return repr(text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}...")
