"""The model to train: found, checked as the exporter checks it, and loaded; and a shallower one made of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from ese_deploy.backbones import POOLINGS, find_architecture, read_checkpoint
from ese_deploy.backbones.architectures import find_layers
from ese_deploy.backbones.contract import EseContract
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.backbones.source import locate
from ese_deploy.errors import InputError
from ese_deploy.projections.projection import Projection

__all__ = [
    "LoadedModel",
    "attention_spelt_out",
    "load_model",
    "pooling_name",
    "set_dropout",
    "truncate_model",
]

_PLAIN_POOLING = "cls"
_REFERENCE_NAMES = {"avg": "mean", "last": "lasttoken"}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for training.

    Attributes:
        model: in fp32.
        depth: number of its blocks.
        pooling: as it pools now.
        max_seq_length: longest input in tokens that it takes, which training does not change.
        contract: what an earlier training said of the exits, if it said anything.
        maps: what it mapped them by, if it did.
        notes: lines for a person.
    """

    model: SentenceTransformer
    depth: int
    pooling: str
    max_seq_length: int
    contract: EseContract | None
    projections: Mapping[int, Projection]
    notes: tuple[str, ...]


def pooling_name(strategy: str) -> str:
    """The name that sentence-transformers gives to a ``--pooling_strategy``.

    Raises:
        InputError: it has no such pooling.
    """
    name = _REFERENCE_NAMES.get(strategy, strategy)
    if any(part not in POOLINGS for part in name.split("+")):
        averaged = strategy in ("cls_avg", "cls_max")
        reason = "averages two poolings, which a sentence-transformers folder cannot say" if averaged else "is unknown"
        allowed = ", ".join((*POOLINGS, *_REFERENCE_NAMES))
        raise InputError(f"--pooling_strategy {strategy} {reason}; choose of {allowed}, or join several with +")
    return name


def load_model(name: str, pooling_strategy: str | None) -> LoadedModel:
    """Load a sentence-transformers folder, or a plain transformers folder as Transformer and Pooling.

    Args:
        name: a folder, a hub id or ``package:NAME``.
        pooling_strategy: the pooling; None: the checkpoint's own, and ``cls`` where it has none.

    Raises:
        InputError: the checkpoint is not one that can be exported, or its weights cannot be loaded.
    """
    wanted = None if pooling_strategy is None else pooling_name(pooling_strategy)
    location = locate(name)
    plain = not (location.path / "modules.json").is_file()
    checkpoint = read_checkpoint(str(location.path), pooling=(wanted or _PLAIN_POOLING) if plain else None)
    notes = []
    try:
        with quiet_transformers():
            model = SentenceTransformer(
                str(checkpoint.backbone_path if plain else location.path),
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
                local_files_only=True,
                device="cpu",
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{name} cannot be loaded for training: {reason}") from error
    pooling = checkpoint.pooling
    if plain:
        notes.append(f"{name} is a plain transformers folder; its vectors are pooled by '{pooling}'")
    elif wanted not in (None, pooling):
        notes.append(f"{name} pools by '{pooling}'; it is trained with '{wanted}' from now on, as asked")
    if plain or wanted not in (None, pooling):
        pooling = wanted or pooling
        _set_pooling(model, checkpoint.hidden_size, pooling, bool(checkpoint.head), name)
    backbone: Any = model[0].auto_model
    backbone.config.use_cache = False
    # No exit reads BERT's pooler: without a gradient it would stall the synchronisation of gradients.
    for parameter_name, parameter in backbone.named_parameters():
        if parameter_name.startswith("pooler."):
            parameter.requires_grad_(False)
    about = (checkpoint.max_seq_length, checkpoint.contract, checkpoint.projections)
    return LoadedModel(model, checkpoint.depth, pooling, *about, tuple(notes))


def set_dropout(model: SentenceTransformer, probability: float) -> None:
    """Set every dropout of a model, in its modules and not in its config: what is saved keeps its own."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        # Blocks that hand a number to a function.
        for name in ("attention_dropout", "dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, probability)


@contextmanager
def attention_spelt_out(model: SentenceTransformer, wanted: bool) -> Iterator[None]:
    """Compute attention by its formula in place of a fused kernel, where the backbone allows that; nothing is saved."""
    backbone: Any = model[0].auto_model
    fused = backbone.config._attn_implementation == "sdpa"
    if wanted and fused:
        backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        if wanted and fused:
            backbone.set_attn_implementation("sdpa")


def truncate_model(model: SentenceTransformer, depth: int) -> None:
    """Keep the first ``depth`` blocks, in the weights, in the config and in its lists of one item per block.

    What follows the blocks (a final norm, pooling, a head) stays, so that the model gives what was its exit ``depth``.

    Raises:
        InputError: the model does not have so many blocks.
    """
    backbone: Any = model[0].auto_model
    config = backbone.config
    full = int(config.num_hidden_layers)
    if not 1 <= depth <= full:
        raise InputError(f"--truncate_to {depth} is not among the depths of the model, 1 to {full}")
    architecture = find_architecture(config)
    if not architecture.shared_layers:
        path = find_layers(backbone, architecture.model_type, full)
        parent, _, name = path.rpartition(".")
        blocks = backbone.get_submodule(path)
        setattr(backbone.get_submodule(parent), name, nn.ModuleList(list(blocks)[:depth]))
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == full and name != "architectures":
            setattr(config, name, value[:depth])
    config.num_hidden_layers = depth


def _set_pooling(model: SentenceTransformer, hidden: int, pooling: str, has_head: bool, name: str) -> None:
    modes = tuple(pooling.split("+"))
    if has_head and len(modes) > 1:
        raise InputError(f"{name} has a Dense module behind its pooling, which takes one pooling; got {pooling}")
    module = Pooling(hidden, modes if len(modes) > 1 else modes[0])
    if len(model) > 1:
        model[1] = module
    else:
        model.append(module)
