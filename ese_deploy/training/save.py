"""Writing the model that was trained or truncated."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
from sentence_transformers import SentenceTransformer

from ese_deploy.backbones.contract import EseContract
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.losses import save_contract
from ese_deploy.projections.projection import Projection
from ese_deploy.system.files import replace_folder, staging_folder
from ese_deploy.training.model import LoadedModel, truncate_model

__all__ = ["finish_model", "reads_states", "write_checkpoint"]

Tell = Callable[[str], None]


def finish_model(
    loaded: LoadedModel,
    contract: EseContract | None,
    settings: argparse.Namespace,
    tell: Tell,
    projections: Mapping[int, Projection] = MappingProxyType({}),
) -> None:
    """Truncate if asked, write the model into ``save_dir``, say where.

    Args:
        loaded: the model.
        contract: of the loss that trained it, if its exits were trained.
        settings: of :func:`ese_deploy.training.arguments.parse_arguments`.
        tell: takes lines for a person.
        projections: of the exits.
    """
    depth = loaded.depth
    if settings.truncate_to:
        depth = settings.truncate_to
        truncate_model(loaded.model, depth)
        if contract is not None and depth not in contract.trained_exits:
            tell(f"depth {depth} was not among the trained exits, {', '.join(map(str, contract.trained_exits))}")
        if contract is not None:
            kept = [exit_ for exit_ in contract.trained_exits if exit_ <= depth]
            contract = msgspec.structs.replace(contract, trained_exits=kept)
        projections = {exit_: fitted for exit_, fitted in projections.items() if exit_ <= depth}
        if reads_states(projections, depth):
            tell("sentence-transformers and other tools give the vectors before the map; exports have it")
    save_dir = Path(settings.save_dir).absolute()
    write_checkpoint(loaded.model, contract, save_dir, projections)
    trained = contract.trained_exits if contract else []
    exits = f"; trained exits: {', '.join(map(str, trained))}" if trained else ""
    tell(f"wrote {settings.save_dir}: {depth} blocks{exits}")


def reads_states(projections: Mapping[int, Projection], depth: int) -> bool:
    """Whether the full depth has a map that is more than a turn of its vectors: so it is after truncation alone."""
    return depth in projections and bool(projections[depth].states)


def write_checkpoint(
    model: SentenceTransformer, contract: EseContract | None, folder: Path, projections: Mapping[int, Projection]
) -> None:
    """Write a checkpoint beside its place, then let it take it.

    Args:
        model: what is written.
        contract: of :meth:`ese_deploy.losses.EseLoss.contract`, if exits were trained.
        folder: its place; what is there is replaced.
        projections: of the exits.
    """
    with staging_folder(folder) as staging:
        with quiet_transformers():
            model.save_pretrained(str(staging), create_model_card=False)
        if contract is not None:
            save_contract(staging, contract, projections)
        replace_folder(staging, folder)
