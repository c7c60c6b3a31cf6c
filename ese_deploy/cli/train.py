"""``python -m training.train``: train a checkpoint so that it can stop at any depth and keep any prefix."""

import os
import warnings
from collections.abc import Sequence

from ese_deploy.cli.console import say
from ese_deploy.cli.tables import extra_error
from ese_deploy.errors import InputError

__all__ = ["train"]


def train(arguments: Sequence[str], standalone_mode: bool = False) -> None:
    """Do what a command line says.

    Args:
        arguments: what follows the program's name.
        standalone_mode: given by :func:`ese_deploy.cli.app.main`; of no meaning here.

    Raises:
        InputError: a flag, the model or the data is not what it must be; found before training begins.
        TrainingError: training cannot go on.
    """
    # Read when the libraries are imported: nothing counts what is trained here.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Libraries that warn of one another's coming releases.
    warnings.filterwarnings("ignore", category=FutureWarning, module="accelerate|transformers")
    with extra_error("train"):
        from ese_deploy.training.arguments import parse_arguments
        from ese_deploy.training.fit import train_model, truncate_only
    settings = parse_arguments(arguments)
    if settings.train_name_or_path:
        train_model(settings, _tell)
    elif settings.truncate_to:
        truncate_only(settings, _tell)
    else:
        raise InputError("--train_name_or_path is missing; see python -m training.train --help")


def _tell(line: str) -> None:
    """Rank 0 speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        say(line)
