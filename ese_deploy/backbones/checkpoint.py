"""Reading a checkpoint: a sentence-transformers folder, or a plain transformers folder with a pooling."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ese_deploy.backbones.architectures import Architecture, backbone_class, find_architecture, position_limit
from ese_deploy.backbones.contract import EseContract, read_contract
from ese_deploy.backbones.dense import Dense, read_dense
from ese_deploy.backbones.pooling import POOLINGS, check_pooling
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.backbones.source import Location, find_weight_files, locate
from ese_deploy.backbones.tokenizer import CheckpointTokenizer, read_tokenizer
from ese_deploy.errors import BundleError, InputError
from ese_deploy.projections.projection import PROJECTIONS_FILE, Projection, decode_projections

__all__ = ["Checkpoint", "load_backbone", "read_checkpoint"]

_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
# In the order in which sentence-transformers joins them.
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TASK = "feature-extraction"
# Weights that a headless model may lack, because no exit reads them.
_UNUSED_WEIGHTS = ("pooler.",)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says of itself; the weights are not loaded yet.

    Attributes:
        location: where it was found.
        backbone_path: the folder with ``config.json`` and the weights.
        weight_files: files with the weights, sorted by name.
        allow_pickle: whether pickle files may be loaded.
        config: the configuration of transformers.
        architecture: what is special about its exits.
        pooling: poolings joined by ``+``, such as ``mean``.
        head: the Dense modules after the pooling.
        tokenizer: its tokenizer.
        lower_case: whether texts are lower-cased before the tokenizer sees them.
        max_seq_length: longest input in tokens, special tokens included.
        prompts: prompts by name.
        default_prompt_name: the prompt used where none is named.
        contract: what training said of the exits, if it said anything.
        maps: what training maps the exits by, if it did.
    """

    location: Location
    backbone_path: Path
    weight_files: tuple[Path, ...]
    allow_pickle: bool
    config: Any
    architecture: Architecture
    pooling: str
    head: tuple[Dense, ...]
    tokenizer: CheckpointTokenizer
    lower_case: bool
    max_seq_length: int
    prompts: dict[str, str]
    default_prompt_name: str | None
    contract: EseContract | None
    projections: Mapping[int, Projection]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Width of a token state."""
        return int(self.config.hidden_size)

    @property
    def width(self) -> int:
        """Dimensions of the full embedding."""
        return self.head[-1].out_features if self.head else self.hidden_size * (self.pooling.count("+") + 1)

    @property
    def trained_exits(self) -> list[int]:
        """Depths whose vectors were trained; the full depth alone where training said nothing."""
        return sorted(self.contract.trained_exits) if self.contract else [self.depth]

    def space(self, depth: int) -> str:
        """Name of the space that an exit's vectors lie in: one for all exits that were trained to be aligned."""
        contract = self.contract
        placed = depth in (self.projections or self.trained_exits)
        aligned = contract is not None and contract.aligned_exits and placed
        return "aligned" if aligned else f"exit{depth:02d}"

    def weights_sha256(self) -> str:
        """Hash over the weight files, in order of their names."""
        digest = hashlib.sha256()
        for path in self.weight_files:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def read_checkpoint(
    model: str,
    *,
    pooling: str | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
    max_seq_length: int | None = None,
) -> Checkpoint:
    """Find a checkpoint and read all but its weights.

    Args:
        model: a folder, a hub id or ``package:NAME``.
        pooling: for a plain transformers folder, which does not say how to pool.
        revision: branch, tag or commit of the hub.
        allow_pickle: also accept weights in pickle files, which can run any code when loaded.
        max_seq_length: a limit in tokens below the checkpoint's own.

    Raises:
        InputError: the checkpoint is not found, not supported, or lacks a part.
    """
    location = locate(model, revision=revision, allow_pickle=allow_pickle)
    described = _read_modules(location.path, pooling, allow_pickle)
    folder = described.backbone_path
    weight_files = tuple(find_weight_files(folder, allow_pickle))
    config = _read_config(folder)
    architecture = find_architecture(config)
    _check_widths(described.head, int(config.hidden_size) * len(described.pooling.split("+")))
    settings = _read_json(folder / "sentence_bert_config.json", optional=True)
    if settings.get("transformer_task", _TASK) != _TASK:
        raise InputError(f"{folder} is a model for '{settings['transformer_task']}'; supported is '{_TASK}'")
    lower_case = bool(settings.get("do_lower_case", False))
    tokenizer = read_tokenizer(folder, lower_case)
    stated = settings.get("max_seq_length")
    longest = _max_length(stated, tokenizer.max_length, position_limit(architecture, config), folder)
    if max_seq_length is not None and not 8 <= max_seq_length <= longest:
        raise InputError(f"max_seq_length {max_seq_length} is outside what {model} allows; choose 8 to {longest}")
    prompts = _read_json(location.path / "config_sentence_transformers.json", optional=True)
    projections_file = location.path / PROJECTIONS_FILE
    pooled = int(config.hidden_size) * len(described.pooling.split("+"))
    width = described.head[-1].out_features if described.head else pooled
    projections = _read_projections(projections_file, int(config.num_hidden_layers), pooled, width)
    return Checkpoint(
        location=location,
        backbone_path=folder,
        weight_files=(
            *weight_files,
            *(layer.weights for layer in described.head),
            *([projections_file] if projections else []),
        ),
        allow_pickle=allow_pickle,
        config=config,
        architecture=architecture,
        pooling=described.pooling,
        head=described.head,
        tokenizer=tokenizer,
        lower_case=lower_case,
        max_seq_length=max_seq_length or longest,
        prompts=_prompts(prompts.get("prompts") or {}, location.path),
        default_prompt_name=prompts.get("default_prompt_name"),
        contract=read_contract(location.path, int(config.num_hidden_layers)),
        projections=projections,
    )


def _prompts(stated: Any, folder: Path) -> dict[str, str]:
    if not isinstance(stated, dict):
        raise InputError(f"{folder}: 'prompts' is no object with a text for each name")
    for name, text in stated.items():
        if not isinstance(text, str | None):
            raise InputError(f"{folder}: the prompt '{name}' is {text}, which must be a text")
    return {name: text for name, text in stated.items() if text is not None}


def load_backbone(checkpoint: Checkpoint) -> nn.Module:
    """Load the backbone in fp32, in evaluation mode, with scaled-dot-product attention.

    Raises:
        InputError: the weights cannot be read, or some are missing.
    """
    import torch

    loaded = backbone_class(checkpoint.config)
    try:
        with quiet_transformers():
            backbone, info = loaded.from_pretrained(
                checkpoint.backbone_path,
                config=copy.deepcopy(checkpoint.config),
                dtype=torch.float32,
                attn_implementation="sdpa" if loaded._supports_sdpa else "eager",
                use_safetensors=None if checkpoint.allow_pickle else True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"the weights in {checkpoint.backbone_path} cannot be loaded: {reason}") from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(_UNUSED_WEIGHTS))
    if missing and getattr(checkpoint.config, "auto_map", None):
        raise InputError(
            f"{checkpoint.backbone_path} was made for model code of its own, which is never run, and its weights do "
            f"not fit the '{checkpoint.config.model_type}' of transformers; convert it to that first"
        )
    if missing:
        raise InputError(
            f"the weights in {checkpoint.backbone_path} lack {len(missing)} tensors, the first is {missing[0]}; "
            "save the checkpoint again"
        )
    backbone.config.use_cache = False
    module: nn.Module = backbone.eval().requires_grad_(False)
    return module


@dataclass(frozen=True)
class _Modules:
    backbone_path: Path
    pooling: str
    head: tuple[Dense, ...] = ()


def _read_modules(path: Path, pooling: str | None, allow_pickle: bool) -> _Modules:
    if not (path / "modules.json").is_file():
        if not (path / "config.json").is_file():
            raise InputError(f"{path} is no checkpoint: it has neither modules.json nor config.json")
        if pooling is None:
            raise InputError(
                f"{path} is a plain transformers folder, which does not say how to pool; "
                f"add --pooling with one of {', '.join(POOLINGS)}"
            )
        return _Modules(path, check_pooling(pooling))
    listed = [(str(item["type"]).rpartition(".")[2], path / item["path"]) for item in _read_json(path / "modules.json")]
    modules = [(kind, folder) for kind, folder in listed if kind != "Dropout"]  # it does nothing after training
    kinds = [kind for kind, _ in modules]
    for kind in kinds:
        if kind not in _MODULES:
            raise InputError(f"{path} has a module '{kind}'; supported are: {', '.join(_MODULES)}")
    if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:]):
        raise InputError(f"{path / 'modules.json'} lists {kinds}; it must begin with Transformer and Pooling")
    stated = _read_pooling(modules[1][1] / "config.json")
    if pooling not in (None, stated):
        raise InputError(f"{path} was trained with pooling '{stated}', got --pooling {pooling}; leave the option out")
    head = tuple(
        read_dense(folder, _read_json(folder / "config.json"), kinds[place - 1] == "Normalize", allow_pickle)
        for place, (kind, folder) in enumerate(modules)
        if kind == "Dense"
    )
    return _Modules(modules[0][1], stated, head)


def _read_pooling(path: Path) -> str:
    config = _read_json(path)
    if config.get("include_prompt") is False:
        raise InputError(
            f"{path} leaves the prompt's tokens out of the pooling (include_prompt is false), and a graph does not see "
            "where a prompt ends; set it to true if the model is used without prompts"
        )
    stated = config.get("pooling_mode")
    if stated is None:
        stated = [mode for key, mode in _LEGACY_POOLINGS.items() if config.get(key)] or "mean"
    return check_pooling(stated if isinstance(stated, str) else "+".join(stated))


def _check_widths(head: tuple[Dense, ...], width: int) -> None:
    for layer in head:
        if layer.in_features != width:
            raise InputError(
                f"{layer.weights.parent} takes vectors of {layer.in_features} dimensions, and what precedes it gives "
                f"{width}; the checkpoint does not fit together"
            )
        width = layer.out_features


def _max_length(stated: int | None, of_tokenizer: int | None, of_positions: int | None, folder: Path) -> int:
    """What the sentence-transformers folder says wins over the tokenizer's limit, never over the position table."""
    limits = [limit for limit in (stated, of_tokenizer, of_positions) if limit is not None]
    if not limits:
        raise InputError(
            f"{folder} does not say how long a text may be; put max_seq_length into its sentence_bert_config.json"
        )
    return int(min(limits[0], of_positions or limits[0]))


def _read_projections(path: Path, depth: int, pooled: int, width: int) -> dict[int, Projection]:
    if not path.is_file():
        return {}
    try:
        projections = decode_projections(path.read_bytes(), str(path))
    except (OSError, BundleError) as error:
        raise InputError(str(error)) from error
    for exit_, fitted in projections.items():
        wanted = (width, pooled * len(fitted.states) or width)
        if exit_ > depth or fitted.matrix.shape != wanted:
            raise InputError(
                f"{path} has a map of exit {exit_} with the shape {list(fitted.matrix.shape)}; this model has {depth} "
                f"blocks and takes {list(wanted)}; the checkpoint does not fit together"
            )
    return projections


def _read_config(folder: Path) -> Any:
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig

    stated = _read_json(folder / "config.json")
    if stated.get("model_type") is None:
        raise InputError(f"{folder / 'config.json'} does not say its model_type")
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} holds an adapter beside its weights; merge it into them and save the model whole")
    if stated["model_type"] not in CONFIG_MAPPING:
        own = ", and the code that the checkpoint names is never run" if "auto_map" in stated else ""
        raise InputError(
            f"architecture '{stated['model_type']}' is not known to transformers {transformers.__version__}{own}; "
            "use a newer transformers, or a checkpoint converted to an architecture that it knows"
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"{folder / 'config.json'} cannot be read: {reason}") from error


def _read_json(path: Path, optional: bool = False) -> Any:
    if optional and not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
