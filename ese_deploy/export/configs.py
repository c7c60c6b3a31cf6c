"""``config.json`` and ``tokenizer_config.json`` of a bundle, by which other tools recognise the model."""

from typing import Any

import msgspec

from ese_deploy.backbones import Checkpoint
from ese_deploy.backbones.architectures import backbone_class
from ese_deploy.bundle.writer import BundleDraft
from ese_deploy.export.trace import input_names

__all__ = ["CONFIG_FILE", "TOKENIZER_CONFIG_FILE", "add_configs"]

CONFIG_FILE, TOKENIZER_CONFIG_FILE = "config.json", "tokenizer_config.json"

# Stated even where they have the default of transformers, which tools in other languages do not know.
_STATED = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "type_vocab_size",
    "vocab_size",
)
# Where and how the checkpoint was saved, and code of the checkpoint, which is never run.
_OMITTED = ("_name_or_path", "auto_map", "dtype", "torch_dtype", "transformers_version")


def add_configs(draft: BundleDraft, checkpoint: Checkpoint) -> BundleDraft:
    """Write both files into a draft."""
    tokenizer = checkpoint.tokenizer.config(checkpoint.max_seq_length, input_names(checkpoint))
    draft = draft.add_file("config", CONFIG_FILE, _encode(_config(checkpoint.config)))
    return draft.add_file("tokenizer_config", TOKENIZER_CONFIG_FILE, _encode(tokenizer))


def _config(config: Any) -> dict[str, Any]:
    values = {name: value for name in _STATED if (value := getattr(config, name, None)) is not None}
    values |= config.to_diff_dict()
    values["architectures"] = config.architectures or [backbone_class(config).__name__]
    return {name: value for name, value in sorted(values.items()) if name not in _OMITTED}


def _encode(value: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
