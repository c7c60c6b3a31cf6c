"""The maps of the exits that training begins and ends with."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from torch import distributed

from ese_deploy.errors import InputError
from ese_deploy.losses import AngleLoss, EseLoss, fit_projections
from ese_deploy.projections.pca import minimum_texts
from ese_deploy.projections.projection import Projection
from ese_deploy.training.collate import Collator
from ese_deploy.training.data import TrainingData

__all__ = ["begin_projections", "end_projections", "plan_projections", "projection_length", "projection_texts"]

Tell = Callable[[str], None]

_LONG = 512
_BEGIN = 12_288


def projection_texts(data: Sequence[TrainingData], collator: Collator, most: int, seed: int) -> list[str]:
    """Texts of the training data to fit maps on, as the model will see them, each once.

    Args:
        data: a part for each format, which all have as many texts in it, as far as they have them: one that is small
            beside the others is of a kind of its own.
        collator: knows the prompts.
        most: texts wanted.
        seed: of the draw.
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


def plan_projections(chosen: dict[str, Any], width: int, texts: int, most: int, tell: Tell) -> bool:
    """Decide whether there are maps; takes the setting ``maps`` away.

    Args:
        chosen: settings of the loss.
        width: of the model to train.
        texts: how many there are to begin with.
        most: how many there may be.
        tell: takes lines for a person.

    Raises:
        InputError: maps were asked for and cannot be.
    """
    wanted = chosen.pop("projections", None)
    if chosen.get("variant", "espresso") != "espresso":
        if wanted:
            raise InputError(f"--maps 1 is for the variant espresso, got {chosen['variant']}; leave it out")
        return False
    least = minimum_texts(width)
    if wanted is not None and not wanted:
        return False
    found = f"there are {texts}" if most >= least else f"--maps_texts is {most}"
    if texts < least and wanted:
        raise InputError(f"--maps 1 begins with {least} different texts, and {found}; give more, or --maps 0")
    if texts < least:
        tell(f"without maps of the exits, which begin with {least} different texts; {found}")
    return texts >= least


def projection_length(maxlen: int, limit: int) -> int:
    """Longest text in tokens that maps are fitted on: texts of batches may be shorter than those that will come.

    Args:
        maxlen: of texts in batches.
        limit: of the model.
    """
    return min(limit, max(maxlen, _LONG))


def begin_projections(
    loss: EseLoss,
    texts: Sequence[str],
    max_length: int,
    arguments: SentenceTransformerTrainingArguments,
    tell: Tell,
) -> None:
    """Fit the maps of a loss on texts of the training data; all processes have the same.

    Args:
        loss: with maps.
        texts: of :func:`map_texts`.
        max_length: longest text in tokens.
        arguments: of the trainer.
        tell: takes lines for a person.
    """
    device = arguments.device
    # Training moves these maps: more texts are worth their time at its end alone.
    few = texts[:: min(-(-len(texts) // _BEGIN), len(texts) // minimum_texts(loss.parts.width))]
    tell(f"fitting maps of the exits on {len(few):,} texts")
    loss.model.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
        loss.set_maps(fit_projections(loss.model, few, loss.exits, max_length))
    if distributed.is_initialized():
        assert loss.projections is not None
        loss.projections.to(device)
        for tensor in (*loss.projections.parameters(), *loss.projections.buffers()):
            distributed.broadcast(tensor.data, 0)


def end_projections(
    loss: EseLoss | AngleLoss,
    model: SentenceTransformer,
    texts: Sequence[str],
    max_length: int,
    arguments: SentenceTransformerTrainingArguments,
    share: float,
    tell: Tell,
) -> dict[int, Projection]:
    """The maps to write: those that were trained, and in part what ridge regression finds of the trained blocks.

    Trained maps serve the texts of the batches best; fitted ones serve others, longer ones above all. Their mean does
    nearly both.

    Args:
        loss: as training left it.
        model: that was trained, without what processes wrap around it.
        texts: of :func:`map_texts`.
        max_length: longest text in tokens.
        arguments: of the trainer.
        share: of the fitted ones, 0 to 1.
        tell: takes lines for a person.
    """
    trained = loss.fitted_maps() if isinstance(loss, EseLoss) else {}
    if not isinstance(loss, EseLoss) or not trained or not share:
        return trained
    device = arguments.device
    tell(f"fitting maps of the exits again on {len(texts):,} texts")
    with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
        return fit_projections(model, texts, loss.exits, max_length, trained=trained, share=share)
