"""What the files of a checkpoint state, read without PyTorch, so that mistakes are refused before it is imported."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ese_deploy.backbones.files import read_json, read_object
from ese_deploy.backbones.source import find_weight_files
from ese_deploy.bundle.reader import is_bundle
from ese_deploy.errors import InputError

__all__ = ["POOLINGS", "check_folder", "check_pooling", "check_stated"]

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

# The names of transformers' architectures for the number of layers and the width.
_DEPTHS = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
_WIDTHS = ("hidden_size", "dim", "d_model", "n_embd")
_POOLING_FLAG = "pooling_mode_"
# Modules that keep the width of the pooled vector.
_SAME_WIDTH = {"Transformer", "Pooling", "Normalize", "Dropout"}


def check_pooling(mode: str) -> str:
    """Return the mode unchanged.

    Raises:
        InputError: it is not supported.
    """
    unknown = [name for name in mode.split("+") if name not in POOLINGS]
    if unknown:
        raise InputError(
            f"Unknown pooling '{unknown[0]}'. Choose one of: {', '.join(POOLINGS)}, or several joined by +."
        )
    return mode


def check_folder(path: Path, pooling: str | None) -> None:
    """Check that a folder is a checkpoint, and that its pooling is known.

    Raises:
        InputError: it holds an adapter, a bundle or something else, or states no pooling and none is given.
    """
    if (path / "adapter_config.json").is_file():
        raise InputError(
            f"{path} holds a LoRA adapter (adapter_config.json). Merge it into its base model (merge_and_unload of "
            "peft) and save the whole model."
        )
    if (path / "modules.json").is_file():
        return
    if is_bundle(path):
        raise InputError(f"{path} is a bundle, which has no weights of PyTorch. Name the checkpoint it was made of.")
    if not (path / "config.json").is_file():
        raise InputError(f"{path} is not a checkpoint: it has neither modules.json nor config.json.")
    if pooling is None:
        raise InputError(
            f"{path} is a plain transformers folder, which does not state a pooling. "
            f"Set `pooling` to one of: {', '.join(POOLINGS)}."
        )
    check_pooling(pooling)


def check_stated(
    path: Path, pooling: str | None, depths: Iterable[int], dims: Iterable[int], allow_pickle: bool
) -> None:
    """Check what can be checked without loading: the folder, its weights, and that no depth or dim exceeds the model.

    Configurations without a known name for a size, or modules that change the width, are left to the loader.

    Raises:
        InputError: the folder is no checkpoint, has no weights, or is shallower or narrower than what is asked for.
    """
    check_folder(path, pooling)
    modules = _modules(path)
    folder = path / modules[0].get("path", "") if modules else path
    # A module outside of the checkpoint or a broken file is named by the loader.
    if ".." in folder.parts or not (folder / "config.json").is_file():
        return
    find_weight_files(folder, allow_pickle)
    config = read_object(folder / "config.json")
    layers, width = _number(config, _DEPTHS), _width(path, modules, config, pooling)
    for depth in depths:
        if layers is not None and depth > layers:
            raise InputError(f"Depth {depth} is deeper than the model. Choose a depth of 1 to {layers}.")
    for dim in dims:
        if width is not None and dim > width:
            raise InputError(f"{dim} dimensions are wider than the model. Choose 8 to {width} dimensions.")


def _modules(path: Path) -> list[dict[str, Any]]:
    listed = read_json(path / "modules.json", optional=True)
    found = listed if isinstance(listed, list) else []
    return [item for item in found if isinstance(item, dict) and isinstance(item.get("path"), str)]


def _width(path: Path, modules: list[dict[str, Any]], config: dict[str, Any], pooling: str | None) -> int | None:
    """Dimensions of the pooled vector; None where it is not clear."""
    hidden = _number(config, _WIDTHS)
    if not modules:
        return None if hidden is None or pooling is None else hidden * len(pooling.split("+"))
    kinds = [str(item.get("type")).rpartition(".")[2] for item in modules]
    if hidden is None or kinds[1:2] != ["Pooling"] or not set(kinds) <= _SAME_WIDTH:
        return None
    stated = read_object(path / modules[1]["path"] / "config.json", optional=True)
    poolings = sum(value is True for name, value in stated.items() if name.startswith(_POOLING_FLAG))
    return hidden * poolings if poolings else None


def _number(config: dict[str, Any], names: Iterable[str]) -> int | None:
    values = [config.get(name) for name in names]
    return next((value for value in values if type(value) is int and value > 0), None)
