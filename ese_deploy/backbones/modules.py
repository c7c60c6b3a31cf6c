"""The files that describe a checkpoint: modules, pooling, prompts and the configuration of transformers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.backbones.dense import Dense, read_dense
from ese_deploy.backbones.pooling import POOLINGS, check_pooling
from ese_deploy.bundle.reader import is_bundle
from ese_deploy.errors import InputError

__all__ = ["LEGACY_POOLINGS", "Modules", "read_config", "read_json", "read_modules", "read_prompts"]

_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
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
    if not (path / "modules.json").is_file():
        if is_bundle(path):
            raise InputError(
                f"{path} is a bundle, which has no weights of PyTorch. Name the checkpoint it was made of."
            )
        if not (path / "config.json").is_file():
            raise InputError(f"{path} is not a checkpoint: it has neither modules.json nor config.json.")
        if pooling is None:
            raise InputError(
                f"{path} is a plain transformers folder, which does not state a pooling. "
                f"Set `pooling` to one of: {', '.join(POOLINGS)}."
            )
        return Modules(path, check_pooling(pooling))
    listed = [(str(item["type"]).rpartition(".")[2], path / item["path"]) for item in read_json(path / "modules.json")]
    modules = [(kind, folder) for kind, folder in listed if kind != "Dropout"]  # inactive after training
    kinds = [kind for kind, _ in modules]
    for kind in kinds:
        if kind not in _MODULES:
            raise InputError(f"{path} has a module '{kind}'. Supported: {', '.join(_MODULES)}.")
    if kinds[:2] != ["Transformer", "Pooling"] or {"Transformer", "Pooling"} & set(kinds[2:]):
        raise InputError(f"{path / 'modules.json'} lists {kinds}. It must begin with Transformer and Pooling.")
    stated = _read_pooling(modules[1][1] / "config.json")
    if pooling not in (None, stated):
        raise InputError(f"{path} was trained with pooling '{stated}', got `pooling` {pooling}. Leave it out.")
    head = tuple(
        read_dense(folder, read_json(folder / "config.json"), kinds[place - 1] == "Normalize", allow_pickle)
        for place, (kind, folder) in enumerate(modules)
        if kind == "Dense"
    )
    return Modules(modules[0][1], stated, head)


def read_prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """Read the prompts by name, and the name of the default prompt.

    Raises:
        InputError: a prompt is not a string.
    """
    settings = read_json(folder / "config_sentence_transformers.json", optional=True)
    stated = settings.get("prompts") or {}
    if not isinstance(stated, dict):
        raise InputError(f"{folder}: 'prompts' must be an object with a string for each name.")
    for name, text in stated.items():
        if not isinstance(text, str | None):
            raise InputError(f"{folder}: the prompt '{name}' is {text}, which must be a string.")
    prompts = {name: text for name, text in stated.items() if text is not None}
    return prompts, settings.get("default_prompt_name")


def read_config(folder: Path) -> Any:
    """Read the configuration of transformers.

    Raises:
        InputError: it cannot be read, or names an architecture that transformers does not have.
    """
    import transformers
    from transformers import CONFIG_MAPPING, AutoConfig

    stated = read_json(folder / "config.json")
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


def read_json(path: Path, optional: bool = False) -> Any:
    """Read a JSON file; an optional file that is missing reads as an empty object.

    Raises:
        InputError: the file cannot be read.
    """
    if optional and not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}") from error


def _read_pooling(path: Path) -> str:
    config = read_json(path)
    if config.get("include_prompt") is False:
        raise InputError(
            f"{path} excludes the prompt's tokens from the pooling (include_prompt is false), but a graph does "
            "not know where a prompt ends. Set it to true if the model is used without prompts."
        )
    stated = config.get("pooling_mode")
    if stated is None:
        stated = [mode for key, mode in LEGACY_POOLINGS.items() if config.get(key)] or "mean"
    return check_pooling(stated if isinstance(stated, str) else "+".join(stated))
