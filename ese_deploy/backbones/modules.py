"""The files that describe a checkpoint: modules, pooling, prompts and the configuration of transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.backbones.classes import module_kind
from ese_deploy.backbones.dense import Dense, read_dense
from ese_deploy.backbones.files import read_json, read_object
from ese_deploy.backbones.pooling import check_pooling
from ese_deploy.backbones.stated import check_folder
from ese_deploy.errors import InputError

__all__ = ["LEGACY_POOLINGS", "Modules", "read_config", "read_modules", "read_prompts"]

_VECTOR = "sentence_embedding"
_POOLING_KEYS = {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt"}
# Flags of sentence-transformers before version 6, in the order in which it concatenates them.
LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Modules:
    """The modules of a checkpoint.

    Attributes:
        backbone_path: the folder of the transformer.
        pooling: poolings joined by ``+``.
        head: the Dense modules after the pooling.
    """

    backbone_path: Path
    pooling: str
    head: tuple[Dense, ...] = ()


def read_modules(path: Path, pooling: str | None, allow_pickle: bool) -> Modules:
    """Read the modules of a checkpoint.

    Args:
        path: a sentence-transformers folder or a plain transformers folder.
        pooling: for a plain folder, which does not state one.
        allow_pickle: accept weights of Dense modules in pickle files.

    Raises:
        InputError: the folder is not a checkpoint, or a module is not supported.
    """
    check_folder(path, pooling)
    if pooling is not None and not (path / "modules.json").is_file():
        return Modules(path, pooling)
    modules = _list_modules(path)
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:]):
        raise InputError(f"{path / 'modules.json'} lists {kinds}. It must begin with Transformer and Pooling.")
    stated = _read_pooling(modules[1][1] / "config.json")
    if pooling not in (None, stated):
        raise InputError(f"{path} was trained with pooling '{stated}', got `pooling` {pooling}. Leave it out.")
    for kind, folder in modules:
        if kind == "Normalize":
            _check_normalize(folder / "config.json")
    head = tuple(
        read_dense(folder, read_object(folder / "config.json"), kinds[place - 1] == "Normalize", allow_pickle)
        for place, (kind, folder) in enumerate(modules)
        if kind == "Dense"
    )
    return Modules(modules[0][1], stated, head)


def _list_modules(path: Path) -> list[tuple[str, Path]]:
    """Kind and folder of each module, without Dropout, which is inactive after training."""
    file = path / "modules.json"
    listed = read_json(file)
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise InputError(f"{file} must hold a list of objects, one for each module. Copy the checkpoint again.")
    found = []
    for item in listed:
        for key in ("type", "path"):
            if not isinstance(item.get(key), str):
                raise InputError(f"{file}: the module {item.get('idx')} has no '{key}'. Copy the checkpoint again.")
        place = Path(item["path"])
        if place.is_absolute() or ".." in place.parts:
            raise InputError(f"{file}: the module {item.get('idx')} is at '{place}', outside of the checkpoint.")
        if item.get("kwargs"):
            raise InputError(f"{file}: the module {item.get('idx')} takes {item['kwargs']}, which is not supported.")
        found.append((module_kind(item["type"], file), path / place))
    return [(kind, folder) for kind, folder in found if kind != "Dropout"]


def _check_normalize(path: Path) -> None:
    """A Normalize module must scale the text's vector, not those of tokens."""
    config = read_object(path, optional=True)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _VECTOR):
            raise InputError(f"{path}: {key} is '{config[key]}'. Supported: '{_VECTOR}'.")


def read_prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """Read the prompts by name, and the name of the default prompt.

    Raises:
        InputError: a prompt is not a string, or the default prompt does not exist.
    """
    settings = read_object(folder / "config_sentence_transformers.json", optional=True)
    stated = settings.get("prompts") or {}
    if not isinstance(stated, dict):
        raise InputError(f"{folder}: 'prompts' must be an object with a string for each name.")
    for name, text in stated.items():
        if not isinstance(text, str | None):
            raise InputError(f"{folder}: the prompt '{name}' is {text}, which must be a string.")
    prompts = {name: text for name, text in stated.items() if text is not None}
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise InputError(f"{folder}: default_prompt_name is {default!r}, and the prompts are {sorted(prompts)}.")
    return prompts, default


def read_config(folder: Path) -> Any:
    """Read the configuration of transformers.

    Raises:
        InputError: it cannot be read, or names an architecture that transformers does not have.
    """
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig

    stated = read_object(folder / "config.json")
    if stated.get("model_type") is None:
        raise InputError(f"{folder / 'config.json'} has no model_type.")
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} has an adapter beside its weights. Merge it into them and save the whole model.")
    if stated["model_type"] not in CONFIG_MAPPING:
        own = ", and model code of a checkpoint is never run" if "auto_map" in stated else ""
        raise InputError(
            f"Architecture '{stated['model_type']}' is not in transformers {transformers.__version__}{own}. "
            "Use a newer transformers, or convert the checkpoint to an architecture that it has."
        )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"Cannot read {folder / 'config.json'}: {reason}") from error


def _read_pooling(path: Path) -> str:
    config = read_object(path)
    unknown = sorted(set(config) - _POOLING_KEYS - LEGACY_POOLINGS.keys())
    if unknown:
        raise InputError(
            f"{path}: {unknown[0]} is not known, and may change what is computed. Remove it if it does not."
        )
    if config.get("include_prompt") is False:
        raise InputError(
            f"{path} excludes the prompt's tokens from the pooling (include_prompt is false), but a graph does "
            "not know where a prompt ends. Set it to true if the model is used without prompts."
        )
    stated = config.get("pooling_mode")
    if stated is None:
        stated = [mode for key, mode in LEGACY_POOLINGS.items() if config.get(key)] or "mean"
    modes = [stated] if isinstance(stated, str) else stated
    if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) for mode in modes):
        raise InputError(f"{path}: pooling_mode is {stated!r}, which must be a name or a list of names.")
    return check_pooling("+".join(modes))
