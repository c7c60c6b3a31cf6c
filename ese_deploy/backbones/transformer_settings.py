"""``sentence_bert_config.json``: the settings of the Transformer module, and those that a graph cannot follow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.backbones.files import read_object
from ese_deploy.errors import InputError

__all__ = ["TransformerSettings", "read_transformer_settings"]

# In the order in which sentence-transformers and text-embeddings-inference look for them.
_NAMES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TASK = "feature-extraction"
_VECTORS = "token_embeddings"
_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
# Where a model is loaded and how fast it computes.
_HARMLESS_ARGUMENTS = {
    *("attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "torch_dtype", "trust_remote_code"),
    *("add_pooling_layer", "use_safetensors", "use_fast", "local_files_only", "token", "revision", "cache_dir"),
}
_ARGUMENTS = ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs")
_LARGEST = 1 << 31


@dataclass(frozen=True)
class TransformerSettings:
    """What the settings say.

    Attributes:
        max_seq_length: longest input in tokens, or None.
        lower_case: whether texts are lower-cased before tokenization.
    """

    max_seq_length: int | None
    lower_case: bool


def read_transformer_settings(folder: Path) -> TransformerSettings:
    """Read the settings of the Transformer module in a folder; without a file, the defaults.

    Raises:
        InputError: a value has the wrong type, or a setting changes what is computed in a way that a graph does not
            follow. The message names the file and the key.
    """
    path = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    if path is None:
        return TransformerSettings(None, False)
    settings = read_object(path)
    longest, lower = settings.pop("max_seq_length", None), settings.pop("do_lower_case", False)
    if longest is not None and (type(longest) is not int or not 1 <= longest < _LARGEST):
        raise InputError(f"{path}: max_seq_length is {longest!r}, which must be a number of tokens from 1 on, or null.")
    if lower is not None and type(lower) is not bool:
        raise InputError(f"{path}: do_lower_case is {lower!r}, which must be true or false.")
    task = settings.pop("transformer_task", _TASK)
    if task != _TASK:
        raise InputError(f"{path}: transformer_task is '{task}'. Supported: '{_TASK}'.")
    output = settings.pop("module_output_name", _VECTORS)
    if output != _VECTORS:
        raise InputError(f"{path}: module_output_name is '{output}'. Supported: '{_VECTORS}'.")
    for key in _ARGUMENTS:
        _check_arguments(path, key, settings.pop(key, None))
    modality = settings.pop("modality_config", None)
    text = modality.get("text") if isinstance(modality, dict) else None
    if modality is not None and text != _TEXT["text"]:
        raise InputError(f"{path}: modality_config is {modality!r:.80}, and only text through forward is supported.")
    for key in ("processing_kwargs", "method_kwargs", "query_length", "document_length", "default_prompt"):
        if settings.get(key):
            raise InputError(f"{path}: {key} is set, which a graph does not follow. Remove it if it is not needed.")
    return TransformerSettings(longest, bool(lower))


def _check_arguments(path: Path, key: str, arguments: Any) -> None:
    """Refuse arguments of transformers that change the model, its configuration or its tokenizer."""
    if arguments is None:
        return
    if not isinstance(arguments, dict):
        raise InputError(f"{path}: {key} is {arguments!r:.80}, which must be an object.")
    for name, value in arguments.items():
        if name not in _HARMLESS_ARGUMENTS and value is not None:
            raise InputError(
                f"{path}: {key} sets '{name}', which an export does not follow. Save the model with it: put the value "
                "into config.json or tokenizer_config.json, and remove it here."
            )
