"""Reading a checkpoint: a sentence-transformers folder, or a plain transformers folder and a pooling."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ese_deploy.backbones.architectures import Architecture, backbone_class, find_architecture, position_limit
from ese_deploy.backbones.contract import EseContract, read_contract
from ese_deploy.backbones.dense import Dense, without_projection
from ese_deploy.backbones.modules import read_config, read_modules, read_prompts
from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.backbones.source import Location, find_weight_files, locate
from ese_deploy.backbones.tokenizer import CheckpointTokenizer, read_tokenizer
from ese_deploy.backbones.transformer_settings import read_transformer_settings
from ese_deploy.errors import BundleError, InputError
from ese_deploy.projections.projection import PROJECTIONS_FILE, Projection, decode_projections
from ese_deploy.projections.tokens import TOKENS_FILE, decode_tokens

__all__ = ["Checkpoint", "load_backbone", "read_checkpoint"]

_MIN_LENGTH = 8
# Weights that a model without a head may lack, because no exit reads them.
_UNUSED_WEIGHTS = ("pooler.",)


@dataclass(frozen=True)
class Checkpoint:
    """The settings of a checkpoint; its weights are not loaded.

    Attributes:
        location: where it was found.
        backbone_path: the folder with ``config.json`` and the weights.
        weight_files: files with the weights, sorted by name.
        allow_pickle: whether pickle files may be loaded.
        config: the configuration of transformers.
        architecture: its row in the table of architectures.
        pooling: poolings joined by ``+``, such as ``mean``.
        head: the Dense modules after the pooling, without one that is the full depth's projection.
        tokenizer: its tokenizer.
        lower_case: whether texts are lower-cased before tokenization.
        max_seq_length: longest input in tokens, including special tokens.
        prompts: prompts by name.
        default_prompt_name: the prompt that is used by default.
        contract: the content of ``ese.json``, if it exists.
        projections: trained projections of exits, if there are any.
    """

    location: Location
    backbone_path: Path
    weight_files: tuple[Path, ...] = field(repr=False)
    allow_pickle: bool
    config: Any = field(repr=False)
    architecture: Architecture
    pooling: str
    head: tuple[Dense, ...]
    tokenizer: CheckpointTokenizer = field(repr=False)
    lower_case: bool
    max_seq_length: int
    prompts: dict[str, str]
    default_prompt_name: str | None
    contract: EseContract | None = field(repr=False)
    projections: Mapping[int, Projection]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Width of a token state."""
        return int(self.config.hidden_size)

    @property
    def width(self) -> int:
        """Dimensions of the full embedding."""
        return self.head[-1].out_features if self.head else _pooled_width(self.config, self.pooling)

    @property
    def trained_exits(self) -> list[int]:
        """Depths with trained exits; only the full depth if there is no ``ese.json``."""
        return sorted(self.contract.trained_exits) if self.contract else [self.depth]

    def space(self, depth: int) -> str:
        """Name of the embedding space of an exit: ``aligned`` for all exits that were trained into one space."""
        contract = self.contract
        trained = depth in (self.projections or self.trained_exits)
        aligned = contract is not None and contract.aligned_exits and trained
        return "aligned" if aligned else f"exit{depth:02d}"

    def weights_sha256(self) -> str:
        """SHA-256 of the concatenated weight files."""
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
    download: bool = True,
) -> Checkpoint:
    """Find a checkpoint and read its settings, tokenizer and projections, but not its weights.

    Args:
        model: a folder, a hub id or ``package:NAME``.
        pooling: for a plain transformers folder, which does not state one.
        revision: branch, tag or commit on the hub.
        allow_pickle: also accept weights in pickle files, which can run any code when loaded.
        max_seq_length: a limit in tokens below the checkpoint's own.
        download: reach for the network if ``model`` is a hub id.

    Raises:
        InputError: the checkpoint is missing, incomplete or not supported.
    """
    location = locate(model, revision=revision, allow_pickle=allow_pickle, download=download)
    modules = read_modules(location.path, pooling, allow_pickle)
    folder = modules.backbone_path
    weight_files = find_weight_files(folder, allow_pickle)
    config = read_config(folder)
    architecture = find_architecture(config)
    pooled = _pooled_width(config, modules.pooling)
    width = _check_widths(modules.head, pooled)
    settings = read_transformer_settings(folder)
    lower_case = settings.lower_case
    tokenizer = read_tokenizer(folder, lower_case)
    limits = (settings.max_seq_length, tokenizer.max_length, position_limit(architecture, config))
    longest = _max_length(*limits, folder)
    if max_seq_length is not None and not _MIN_LENGTH <= max_seq_length <= longest:
        raise InputError(
            f"`max_seq_length` {max_seq_length} is out of range for {model}. Choose {_MIN_LENGTH} to {longest}."
        )
    prompts, default_prompt_name = read_prompts(location.path)
    projections_file = location.path / PROJECTIONS_FILE
    depth = int(config.num_hidden_layers)
    # The projection as a module is square, so the width is the same with and without it.
    projections = _read_projections(projections_file, depth, pooled, width, int(config.hidden_size))
    tokens_file = location.path / TOKENS_FILE
    contract, head = read_contract(location.path, depth), modules.head
    if contract is not None and contract.projection_module is not None:
        matrix = projections[depth].matrix if depth in projections else None
        head = without_projection(head, location.path / contract.projection_module, matrix)
    return Checkpoint(
        location=location,
        backbone_path=folder,
        weight_files=(
            *weight_files,
            *(dense.weights for dense in head),
            *([projections_file] if projections else []),
            *([tokens_file] if any(projection.tokens for projection in projections.values()) else []),
        ),
        allow_pickle=allow_pickle,
        config=config,
        architecture=architecture,
        pooling=modules.pooling,
        head=head,
        tokenizer=tokenizer,
        lower_case=lower_case,
        max_seq_length=max_seq_length or longest,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        contract=contract,
        projections=projections,
    )


def load_backbone(checkpoint: Checkpoint) -> nn.Module:
    """Load the backbone in fp32, in evaluation mode, with scaled-dot-product attention.

    Raises:
        InputError: the weights cannot be read, or some are missing.
    """
    import torch

    model_class = backbone_class(checkpoint.config)
    try:
        with quiet_transformers():
            backbone, info = model_class.from_pretrained(
                checkpoint.backbone_path,
                config=copy.deepcopy(checkpoint.config),
                dtype=torch.float32,
                attn_implementation="sdpa" if model_class._supports_sdpa else "eager",
                use_safetensors=None if checkpoint.allow_pickle else True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"Cannot load the weights in {checkpoint.backbone_path}: {reason}") from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(_UNUSED_WEIGHTS))
    if missing and getattr(checkpoint.config, "auto_map", None):
        raise InputError(
            f"{checkpoint.backbone_path} needs its own model code, which is never run, and its weights do not fit the "
            f"'{checkpoint.config.model_type}' of transformers. Convert the checkpoint to that architecture first."
        )
    if missing:
        raise InputError(
            f"The weights in {checkpoint.backbone_path} lack {len(missing)} tensors, the first is {missing[0]}. "
            "Save the checkpoint again."
        )
    _check_finite(backbone, checkpoint)
    backbone.config.use_cache = False
    module: nn.Module = backbone.eval().requires_grad_(False)
    return module


def _check_finite(backbone: nn.Module, checkpoint: Checkpoint) -> None:
    for name, tensor in backbone.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(
                f"The weights in {checkpoint.backbone_path} have a value that is NaN or infinite, in {name}. Train or "
                "copy the checkpoint again."
            )


def _pooled_width(config: Any, pooling: str) -> int:
    return int(config.hidden_size) * len(pooling.split("+"))


def _check_widths(head: tuple[Dense, ...], width: int) -> int:
    """The width of the vectors after the head."""
    for dense in head:
        if dense.in_features != width:
            raise InputError(
                f"{dense.weights.parent} takes vectors of {dense.in_features} dimensions, but the module before it "
                f"gives {width}. Save the checkpoint again."
            )
        width = dense.out_features
    return width


def _max_length(stated: int | None, of_tokenizer: int | None, of_positions: int | None, folder: Path) -> int:
    """The limit of the sentence-transformers folder wins over the tokenizer's, but not over the position table."""
    limits = [limit for limit in (stated, of_tokenizer, of_positions) if limit is not None]
    if not limits:
        raise InputError(f"{folder} states no longest input. Add max_seq_length to its sentence_bert_config.json.")
    return int(min(limits[0], of_positions or limits[0]))


def _read_projections(path: Path, depth: int, pooled: int, width: int, hidden: int) -> dict[int, Projection]:
    if not path.is_file():
        return {}
    stored = path.with_name(TOKENS_FILE)
    try:
        tokens = decode_tokens(stored.read_bytes(), str(stored)) if stored.is_file() else None
        projections = decode_projections(path.read_bytes(), str(path), tokens)
    except (OSError, BundleError) as error:
        raise InputError(str(error)) from error
    for exit_, projection in projections.items():
        features = projection.tokens.names if projection.tokens else frozenset()
        of_states = (pooled + (hidden if "rarity" in features else 0)) * len(projection.states)
        wanted = (width, of_states + (width if "table" in features else 0) or width)
        if exit_ > depth or projection.matrix.shape != wanted:
            raise InputError(
                f"{path} has a projection of exit {exit_} with shape {list(projection.matrix.shape)}, but the model "
                f"has {depth} layers and needs {list(wanted)}. Save the checkpoint again."
            )
    return projections
