"""Loads and checks the model to train, and truncates it."""

import logging
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
from ese_deploy.backbones.files import read_json
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.backbones.source import locate
from ese_deploy.errors import InputError
from ese_deploy.projections.projection import Projection

__all__ = [
    "LoadedModel",
    "load_model",
    "pooling_name",
    "set_dropout",
    "truncate_model",
    "unfused_attention",
]

logger = logging.getLogger(__name__)

_DEFAULT_POOLING = "cls"
_REFERENCE_NAMES = {"avg": "mean", "last": "lasttoken"}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for training.

    Attributes:
        model: in fp32.
        depth: number of layers.
        pooling: its pooling.
        max_seq_length: longest input in tokens; training does not change it.
        contract: contract of an earlier training, if any.
        projections: projections of an earlier training, if any.
    """

    model: SentenceTransformer
    depth: int
    pooling: str
    max_seq_length: int
    contract: EseContract | None
    projections: Mapping[int, Projection]


def pooling_name(strategy: str) -> str:
    """The name of a pooling in sentence-transformers.

    Raises:
        InputError: the pooling is unknown.
    """
    name = _REFERENCE_NAMES.get(strategy, strategy)
    if any(part not in POOLINGS for part in name.split("+")):
        allowed = ", ".join((*POOLINGS, *_REFERENCE_NAMES))
        raise InputError(f"Unknown pooling '{strategy}'. Choose one of: {allowed}; or join several with +.")
    return name


def load_model(name: str, pooling: str | None) -> LoadedModel:
    """Load a sentence-transformers folder, or a plain transformers folder as Transformer and Pooling.

    Args:
        name: a folder, a hub id or ``package:NAME``.
        pooling: None means the checkpoint's own, or ``cls`` if it has none.

    Raises:
        InputError: the checkpoint cannot be exported, or its weights cannot be loaded.
    """
    wanted = None if pooling is None else pooling_name(pooling)
    location = locate(name)
    plain = not (location.path / "modules.json").is_file()
    checkpoint = read_checkpoint(str(location.path), pooling=(wanted or _DEFAULT_POOLING) if plain else None)
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
        raise InputError(f"{name} cannot be loaded for training: {reason}.") from error
    if checkpoint.contract is not None and checkpoint.contract.projection_module is not None:
        # Exits are trained without it; the trained projection is added again when the model is written.
        paths = [item["path"] for item in read_json(location.path / "modules.json")]
        del model[paths.index(checkpoint.contract.projection_module)]
    used = wanted or checkpoint.pooling
    if plain:
        logger.info("%s is a plain transformers folder. Its vectors are pooled by '%s'.", name, used)
    elif used != checkpoint.pooling:
        logger.info("%s pools by '%s'. It is trained with '%s' as requested.", name, checkpoint.pooling, used)
    if plain or used != checkpoint.pooling:
        _set_pooling(model, checkpoint.hidden_size, used, bool(checkpoint.head), name)
    backbone: Any = model[0].auto_model
    backbone.config.use_cache = False
    # No exit reads BERT's pooler. A parameter without gradient would block distributed training.
    for parameter_name, parameter in backbone.named_parameters():
        if parameter_name.startswith("pooler."):
            parameter.requires_grad_(False)
    rest = (checkpoint.max_seq_length, checkpoint.contract, checkpoint.projections)
    return LoadedModel(model, checkpoint.depth, used, *rest)


def set_dropout(model: SentenceTransformer, probability: float) -> None:
    """Set every dropout of a model in its modules. The config, which is saved, keeps its own."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        # Some layers pass a number to a function.
        for name in ("attention_dropout", "dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, probability)


@contextmanager
def unfused_attention(model: SentenceTransformer, wanted: bool) -> Iterator[None]:
    """Compute attention without the fused kernel, if the backbone supports that. Nothing is saved."""
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
    """Keep the first ``depth`` layers, in the weights and in the config, including its lists of one item per layer.

    The modules after the layers (a final norm, pooling, a head) stay, so that the model returns the vectors of its
    former exit ``depth``.

    Raises:
        InputError: the model has fewer layers.
    """
    backbone: Any = model[0].auto_model
    config = backbone.config
    full = int(config.num_hidden_layers)
    if not 1 <= depth <= full:
        raise InputError(f"The model cannot be truncated to depth {depth}. It has {full} layers.")
    architecture = find_architecture(config)
    if not architecture.shared_layers:
        path = find_layers(backbone, architecture.model_type, full)
        parent, _, name = path.rpartition(".")
        layers = backbone.get_submodule(path)
        setattr(backbone.get_submodule(parent), name, nn.ModuleList(list(layers)[:depth]))
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == full and name != "architectures":
            setattr(config, name, value[:depth])
    config.num_hidden_layers = depth


def _set_pooling(model: SentenceTransformer, hidden: int, pooling: str, has_head: bool, name: str) -> None:
    modes = tuple(pooling.split("+"))
    if has_head and len(modes) > 1:
        raise InputError(f"{name} has a Dense module, which takes the output of one pooling. Got {pooling}.")
    module = Pooling(hidden, modes if len(modes) > 1 else modes[0])
    if len(model) > 1:
        model[1] = module
    else:
        model.append(module)
