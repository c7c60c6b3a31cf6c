"""The projections of the exits, before and after training."""

import logging
import random
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from torch import distributed

from ese_deploy.errors import InputError
from ese_deploy.fitting import fit_exits
from ese_deploy.losses import AngleLoss, EseLoss, ModelStates, fit_projections
from ese_deploy.projections.pca import minimum_texts
from ese_deploy.projections.projection import Projection
from ese_deploy.system.progress import Progress, silent
from ese_deploy.training.collate import Collator
from ese_deploy.training.data import TrainingData

__all__ = ["fit_initial", "fit_length", "fit_untrained", "plan_projections", "projection_texts", "refit_trained"]

logger = logging.getLogger(__name__)

_MIN_LENGTH = 512
_MAX_INITIAL_TEXTS = 12_288


def projection_texts(data: Sequence[TrainingData], collator: Collator, most: int, seed: int) -> list[str]:
    """Distinct texts of the training data to fit projections on, with their prompts.

    Every format gets the same share, as far as it has the texts: a small part can be of a kind of its own.

    Args:
        data: a part for each format.
        collator: adds the prompts.
        most: number of texts wanted.
        seed: seed of the draw.
    """
    draw = random.Random(seed)
    distinct = sorted((_texts(part, collator) for part in data), key=len)
    chosen: list[str] = []
    for number, texts in enumerate(distinct):
        quota = (most - len(chosen)) // (len(distinct) - number)
        chosen += draw.sample(texts, min(len(texts), quota))
    return list(dict.fromkeys(chosen))


def _texts(part: TrainingData, collator: Collator) -> list[str]:
    texts = (
        collator.prompted(column, text)
        for column in part.layout.texts
        for value in part.dataset[column]
        for text in (value if isinstance(value, list) else [value])
    )
    return list(dict.fromkeys(texts))


def plan_projections(chosen: dict[str, Any], width: int, texts: int, most: int) -> bool:
    """Decide whether the exits get projections; removes ``projections`` from the settings.

    Args:
        chosen: settings of the loss.
        width: width of the model.
        texts: number of texts to fit them on.
        most: the limit on that number.

    Raises:
        InputError: projections were asked for and are not possible.
    """
    wanted = chosen.pop("projections", None)
    features = chosen.get("token_features")
    if chosen["variant"] != "espresso":
        if wanted:
            raise InputError(f"The variant '{chosen['variant']}' trains no projections. Leave them out.")
        return False
    least = minimum_texts(width)
    if wanted is not None and not wanted:
        if features:
            raise InputError(
                "Projections read the token features. Leave out `projections=0`, or set `token_features=none`."
            )
        return False
    found = f"there are {texts}" if most >= least else f"`projection_texts` is {most}"
    if texts < least and (wanted or features):
        without = "`token_features=none`" if features else "`projections=0`"
        raise InputError(f"Projections need {least} different texts, and {found}. Add texts, or set {without}.")
    if texts < least:
        logger.warning("Training without projections: they need %d different texts, and %s.", least, found)
    return texts >= least


def fit_length(max_length: int, limit: int) -> int:
    """Longest text in tokens for fitting, which may exceed that of batches: later texts can be longer.

    Args:
        max_length: limit of batches.
        limit: limit of the model.
    """
    return min(limit, max(max_length, _MIN_LENGTH))


def fit_initial(
    loss: EseLoss,
    texts: Sequence[str],
    max_length: int,
    arguments: SentenceTransformerTrainingArguments,
    progress: Progress = silent,
) -> None:
    """Fit the projections of a loss before training; all processes get the same.

    Args:
        loss: with projections.
        texts: of :func:`projection_texts`.
        max_length: longest text in tokens.
        arguments: arguments of the trainer.
        progress: called between batches.
    """
    device = arguments.device
    if loss.token_features:
        loss.set_projections(fit_untrained(loss, texts, max_length, device, arguments.bf16, progress))
        _broadcast(loss, device)
        return
    # Training changes these projections, so that more texts are only worth their time after it.
    few = texts[:: min(-(-len(texts) // _MAX_INITIAL_TEXTS), len(texts) // minimum_texts(loss.parts.width))]
    logger.info("Fitting projections of the exits on %s texts.", f"{len(few):,}")
    loss.model.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
        loss.set_projections(fit_projections(loss.model, few, loss.exits, max_length, progress))
    _broadcast(loss, device)


def fit_untrained(
    loss: EseLoss,
    texts: Sequence[str],
    max_length: int,
    device: torch.device,
    bf16: bool = False,
    progress: Progress = silent,
) -> dict[int, Projection]:
    """Projections and token features for the layers as they are, fitted on all texts; see :func:`fit_initial`."""
    also = " and token features" if loss.token_features else ""
    logger.info("Fitting projections%s of the exits on %s texts.", also, f"{len(texts):,}")
    loss.model.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        source = ModelStates(loss.model, texts, max_length)
        return fit_exits(source, loss.exits, loss.token_features, progress)


def _broadcast(loss: EseLoss, device: torch.device) -> None:
    """Give all processes the projections of the first."""
    if distributed.is_initialized():
        assert loss.projections is not None
        loss.projections.to(device)
        for tensor in (*loss.projections.parameters(), *loss.projections.buffers()):
            distributed.broadcast(tensor.data, 0)


def refit_trained(
    loss: EseLoss | AngleLoss,
    model: SentenceTransformer,
    texts: Sequence[str],
    max_length: int,
    arguments: SentenceTransformerTrainingArguments,
    share: float,
    progress: Progress = silent,
) -> dict[int, Projection]:
    """The projections to write: a mixture of the trained ones and of a new ridge regression on the trained layers.

    Trained projections are best for the texts of the batches, fitted ones for other texts, above all longer ones.
    Their mean comes close to both.

    Args:
        loss: the loss after training.
        model: the trained model, without a distributed wrapper.
        texts: of :func:`projection_texts`.
        max_length: longest text in tokens.
        arguments: arguments of the trainer.
        share: weight of the fitted ones, 0 to 1.
        progress: called between batches.
    """
    trained = loss.trained_projections() if isinstance(loss, EseLoss) else {}
    if not isinstance(loss, EseLoss) or not trained or not share:
        return trained
    device = arguments.device
    logger.info("Fitting projections of the exits again on %s texts.", f"{len(texts):,}")
    with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
        if loss.token_features:
            source = ModelStates(model, texts, max_length)
            return fit_exits(
                source,
                loss.exits,
                loss.token_features,
                progress,
                components=trained[loss.parts.depth],
                tokens=next(iter(trained.values())).tokens,
                trained=trained,
                share=share,
            )
        return fit_projections(model, texts, loss.exits, max_length, progress, trained=trained, share=share)
