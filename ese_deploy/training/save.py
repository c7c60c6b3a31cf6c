"""Writes the trained or truncated model."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from sentence_transformers import SentenceTransformer

from ese_deploy.backbones.architectures import find_architecture, position_limit
from ese_deploy.backbones.contract import EseContract
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.losses import save_contract
from ese_deploy.projections.projection import Projection
from ese_deploy.system.files import replace_folder, staging_folder
from ese_deploy.training.layout import use_classic_layout
from ese_deploy.training.model import LoadedModel, truncate_model
from ese_deploy.training.settings import TrainingSettings

__all__ = ["finish_model", "reads_states", "write_checkpoint"]

logger = logging.getLogger(__name__)


def finish_model(
    loaded: LoadedModel,
    contract: EseContract | None,
    settings: TrainingSettings,
    projections: Mapping[int, Projection] = MappingProxyType({}),
) -> None:
    """Truncate the model if the settings say so, and write it into the output folder.

    Args:
        loaded: the model.
        contract: the contract of the loss, if exits were trained.
        settings: settings of the run.
        projections: the projections of the exits.
    """
    depth = loaded.depth
    if settings.truncate_to:
        depth = settings.truncate_to
        truncate_model(loaded.model, depth)
        if contract is not None and depth not in contract.trained_exits:
            trained_exits = ", ".join(map(str, contract.trained_exits))
            logger.warning("Depth %d is not among the trained exits, %s.", depth, trained_exits)
        if contract is not None:
            kept = [exit_ for exit_ in contract.trained_exits if exit_ <= depth]
            contract = msgspec.structs.replace(contract, trained_exits=kept)
        projections = {exit_: projection for exit_, projection in projections.items() if exit_ <= depth}
        if reads_states(projections, depth):
            logger.warning(
                "sentence-transformers and other tools ignore the projection of this depth. Exports apply it."
            )
    write_checkpoint(loaded.model, contract, Path(settings.out).absolute(), projections)
    trained = contract.trained_exits if contract else []
    exits = f"; trained exits: {', '.join(map(str, trained))}" if trained else ""
    logger.info("Wrote %s: %d layers%s", settings.out, depth, exits)


def reads_states(projections: Mapping[int, Projection], depth: int) -> bool:
    """Whether the full depth's projection reads earlier layers, which only a truncated model's does."""
    return depth in projections and bool(projections[depth].states)


def write_checkpoint(
    model: SentenceTransformer, contract: EseContract | None, folder: Path, projections: Mapping[int, Projection]
) -> None:
    """Write a checkpoint atomically, in the classic layout of sentence-transformers.

    The full depth's projection is also a Dense module, unless it reads earlier layers, so that other tools compute the
    vectors that a bundle computes.

    Args:
        model: the model.
        contract: of :meth:`ese_deploy.losses.EseLoss.contract`, if exits were trained.
        folder: the destination; existing content is replaced.
        projections: the projections of the exits.
    """
    with staging_folder(folder) as staging:
        with quiet_transformers():
            model.save_pretrained(str(staging), create_model_card=False)
        backbone: Any = model[0].auto_model
        config = backbone.config
        own = None if contract is None else projections.get(int(config.num_hidden_layers))
        matrix = None if own is None or own.states else own.matrix
        limits = (model.max_seq_length, position_limit(find_architecture(config), config))
        module = use_classic_layout(staging, min(filter(None, limits), default=None), matrix)
        if contract is not None:
            save_contract(staging, contract.with_module(module), projections)
        replace_folder(staging, folder)
