"""Finding the folder of a checkpoint: on disk, on the hub, or inside an installed Python package."""

import importlib.metadata
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.errors import InputError
from ese_deploy.system.files import expand

__all__ = ["Location", "find_weight_files", "locate"]

_PACKAGE = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*/*.json", "*/*.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Location:
    """Where a checkpoint lies.

    Attributes:
        model: as the user named it.
        path: the folder on disk.
        revision: commit of the hub, or version of the package; None for a folder.
    """

    model: str
    path: Path
    revision: str | None


def locate(model: str, *, revision: str | None = None, allow_pickle: bool = False) -> Location:
    """Find a checkpoint, downloading it from the hub if it is neither a folder nor a package.

    Args:
        model: a folder, a hub id, or ``package:NAME`` for a model that an installed Python package carries.
        revision: branch, tag or commit of the hub.
        allow_pickle: also download weights in pickle files.

    Raises:
        InputError: there is no such folder, package or hub model, or a revision was named for a folder.
    """
    if model.startswith(_PACKAGE):
        return _in_package(model)
    path = expand(model)
    if path.is_dir():
        if revision is not None:
            raise InputError(f"--revision {revision} is of a model of the hub, and {model} is a folder; leave it out")
        return Location(model, path, None)
    if path.exists():
        raise InputError(f"{model} is a file; MODEL is a folder, a hub id or package:NAME")
    if not _HUB_ID.fullmatch(model):
        raise InputError(f"there is no folder {model}; MODEL is a folder, a hub id or package:NAME")
    return _on_hub(model, revision, allow_pickle)


def find_weight_files(folder: Path, allow_pickle: bool) -> list[Path]:
    """The files that hold the weights, sorted by name.

    Raises:
        InputError: there are none, an index names one that is missing, or they are pickle files and pickle was not
            allowed.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if name.endswith(".bin") and not allow_pickle:
            break
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            shards = sorted({str(shard) for shard in json.loads(index.read_text("utf-8"))["weight_map"].values()})
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise InputError(f"{index} names {missing[0]}, which is missing; copy the checkpoint again, whole")
            return [folder / shard for shard in shards]
    if any(any(folder.glob(pattern)) for pattern in _PICKLES):
        raise InputError(
            f"{folder} holds its weights as pickle only, and loading a pickle can run any code; convert it to "
            "safetensors, or pass --allow-pickle if you trust whoever made it"
        )
    raise InputError(f"{folder} holds no model.safetensors; is it a checkpoint?")


def _in_package(model: str) -> Location:
    name = model.removeprefix(_PACKAGE)
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(f"the Python package '{name}' is not installed; pip install {name}") from None
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    for marker in ("modules.json", "config.json"):
        folders = sorted({file.parent for file in files if file.name == marker}, key=lambda path: len(path.parts))
        if folders:
            return Location(model, folders[0], distribution.version)
    raise InputError(f"the Python package '{name}' carries no model: it has neither modules.json nor config.json")


def _on_hub(model: str, revision: str | None, allow_pickle: bool) -> Location:
    from huggingface_hub import snapshot_download

    patterns = [*_HUB_FILES, *(_PICKLES if allow_pickle else ())]
    try:
        path = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"'{model}' is no folder here, and the hub did not give it: {reason}") from error
    return Location(model, path, path.name)
