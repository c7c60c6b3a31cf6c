"""Reading a checkpoint: a sentence-transformers folder, or a plain transformers folder with a pooling."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ese_deploy.backbones.architectures import Architecture, find_architecture, position_limit
from ese_deploy.backbones.contract import EseContract, read_contract
from ese_deploy.backbones.pooling import POOLINGS, check_pooling
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.backbones.source import Location, find_weight_files, locate
from ese_deploy.backbones.tokenizer import CheckpointTokenizer, read_tokenizer
from ese_deploy.errors import InputError

__all__ = ["Checkpoint", "load_backbone", "read_checkpoint"]

_MODULES = ("Transformer", "Pooling", "Normalize")
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
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
        pooling: ``mean`` or ``cls``.
        tokenizer: its tokenizer.
        lower_case: whether texts are lower-cased before the tokenizer sees them.
        max_seq_length: longest input in tokens, special tokens included.
        prompts: prompts by name.
        default_prompt_name: the prompt used where none is named.
        contract: what training said of the exits, if it said anything.
    """

    location: Location
    backbone_path: Path
    weight_files: tuple[Path, ...]
    allow_pickle: bool
    config: Any
    architecture: Architecture
    pooling: str
    tokenizer: CheckpointTokenizer
    lower_case: bool
    max_seq_length: int
    prompts: dict[str, str]
    default_prompt_name: str | None
    contract: EseContract | None

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
        return self.hidden_size

    @property
    def trained_exits(self) -> list[int]:
        """Depths whose vectors were trained; the full depth alone where training said nothing."""
        return sorted({*self.contract.trained_exits, self.depth}) if self.contract else [self.depth]

    @property
    def aligned_exits(self) -> bool:
        """Whether all exits share one vector space."""
        return self.contract is not None and self.contract.aligned_exits

    def weights_sha256(self) -> str:
        """Hash over the weight files, in order of their names."""
        digest = hashlib.sha256()
        for path in self.weight_files:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def read_checkpoint(
    model: str, *, pooling: str | None = None, revision: str | None = None, allow_pickle: bool = False
) -> Checkpoint:
    """Find a checkpoint and read all but its weights.

    Args:
        model: a folder, a hub id or ``package:NAME``.
        pooling: for a plain transformers folder, which does not say how to pool.
        revision: branch, tag or commit of the hub.
        allow_pickle: also accept weights in pickle files, which can run any code when loaded.

    Raises:
        InputError: the checkpoint is not found, not supported, or lacks a part.
    """
    location = locate(model, revision=revision, allow_pickle=allow_pickle)
    described = _read_modules(location.path, pooling)
    folder = described.backbone_path
    weight_files = tuple(find_weight_files(folder, allow_pickle))
    config = _read_config(folder)
    architecture = find_architecture(config.model_type)
    settings = _read_json(folder / "sentence_bert_config.json", optional=True)
    lower_case = bool(settings.get("do_lower_case", False))
    tokenizer = read_tokenizer(folder, lower_case)
    limits = [settings.get("max_seq_length"), tokenizer.max_length, position_limit(architecture, config)]
    # What the sentence-transformers folder says wins over the tokenizer's limit, never over the position table.
    stated = next(limit for limit in limits if limit is not None)
    prompts = _read_json(location.path / "config_sentence_transformers.json", optional=True)
    return Checkpoint(
        location=location,
        backbone_path=folder,
        weight_files=weight_files,
        allow_pickle=allow_pickle,
        config=config,
        architecture=architecture,
        pooling=described.pooling,
        tokenizer=tokenizer,
        lower_case=lower_case,
        max_seq_length=min(int(stated), position_limit(architecture, config)),
        prompts=dict(prompts.get("prompts") or {}),
        default_prompt_name=prompts.get("default_prompt_name"),
        contract=read_contract(location.path, int(config.num_hidden_layers)),
    )


def load_backbone(checkpoint: Checkpoint) -> nn.Module:
    """Load the backbone in fp32, in evaluation mode, with scaled-dot-product attention.

    Raises:
        InputError: the weights cannot be read, or some are missing.
    """
    import torch
    from transformers import AutoModel

    try:
        with quiet_transformers():
            backbone, info = AutoModel.from_pretrained(
                checkpoint.backbone_path,
                config=checkpoint.config,
                dtype=torch.float32,
                attn_implementation="sdpa",
                use_safetensors=None if checkpoint.allow_pickle else True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"the weights in {checkpoint.backbone_path} cannot be loaded: {reason}") from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(_UNUSED_WEIGHTS))
    if missing:
        raise InputError(
            f"the weights in {checkpoint.backbone_path} lack {len(missing)} tensors, the first is {missing[0]}; "
            "save the checkpoint again"
        )
    module: nn.Module = backbone
    return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class _Modules:
    backbone_path: Path
    pooling: str


def _read_modules(path: Path, pooling: str | None) -> _Modules:
    if not (path / "modules.json").is_file():
        if not (path / "config.json").is_file():
            raise InputError(f"{path} is no checkpoint: it has neither modules.json nor config.json")
        if pooling is None:
            raise InputError(
                f"{path} is a plain transformers folder, which does not say how to pool; "
                f"add --pooling with one of {', '.join(POOLINGS)}"
            )
        return _Modules(path, check_pooling(pooling))
    folders: dict[str, Path] = {}
    for module in _read_json(path / "modules.json"):
        kind = str(module["type"]).rpartition(".")[2]
        if kind not in _MODULES:
            raise InputError(f"{path} has a module '{kind}'; supported are: {', '.join(_MODULES)}")
        folders[kind] = path / module["path"]
    if "Transformer" not in folders or "Pooling" not in folders:
        raise InputError(f"{path / 'modules.json'} lists {sorted(folders)}; it must list Transformer and Pooling")
    stated = _read_pooling(folders["Pooling"] / "config.json")
    if pooling not in (None, stated):
        raise InputError(f"{path} was trained with pooling '{stated}', got --pooling {pooling}; leave the option out")
    return _Modules(folders["Transformer"], stated)


def _read_pooling(path: Path) -> str:
    config = _read_json(path)
    if config.get("include_prompt") is False:
        raise InputError(
            f"{path} leaves the prompt's tokens out of the pooling (include_prompt is false), which is not supported"
        )
    stated = config.get("pooling_mode")
    if stated is None:
        modes = [mode for key, mode in _LEGACY_POOLINGS.items() if config.get(key)] or ["mean"]
    else:
        modes = [stated] if isinstance(stated, str) else list(stated)
    if len(modes) != 1:
        raise InputError(f"{path} concatenates the poolings {modes}; supported is one of {', '.join(POOLINGS)}")
    return check_pooling(modes[0])


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    stated = _read_json(folder / "config.json").get("model_type")
    if stated is None:
        raise InputError(f"{folder / 'config.json'} does not say its model_type")
    find_architecture(str(stated))
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
