"""Finding a checkpoint: on disk, on the hub, or in an installed Python package."""

import difflib
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

from ese_deploy.backbones.files import read_object
from ese_deploy.bundle.reader import is_bundle
from ese_deploy.errors import InputError
from ese_deploy.system.files import expand

__all__ = ["PACKAGE_PREFIX", "Location", "find_weight_files", "locate"]

PACKAGE_PREFIX = "package:"
_ADAPTER = "adapter_config.json"
_LFS = b"version https://git-lfs.github.com/spec/"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*/*.json", "*/*.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Location:
    """Where a checkpoint was found.

    Attributes:
        model: the name that the user gave.
        path: the folder on disk.
        revision: commit on the hub, or version of the package; None for a folder.
    """

    model: str
    path: Path
    revision: str | None


def locate(model: str, *, revision: str | None = None, allow_pickle: bool = False, download: bool = True) -> Location:
    """Find a checkpoint; download it from the hub if it is neither a folder nor a package.

    Args:
        model: a folder, a hub id, or ``package:NAME`` for the model in an installed Python package.
        revision: branch, tag or commit on the hub.
        allow_pickle: also download weights in pickle files.
        download: reach for the network. Otherwise a hub model must be in the local cache.

    Raises:
        InputError: no such folder, package or hub model exists, or `revision` is given for a folder.
    """
    if model.startswith(PACKAGE_PREFIX):
        return _in_package(model)
    path = expand(model)
    if path.is_dir():
        if revision is not None:
            raise InputError(f"`revision` {revision} applies to hub models, but {model} is a folder. Leave it out.")
        if is_bundle(path) and not (path / "modules.json").is_file():
            raise InputError(
                f"{path} is a bundle, which has no weights of PyTorch. Name the checkpoint it was made of."
            )
        return Location(model, path, None)
    if path.exists():
        raise InputError(f"{model} is a file. Give a folder, a hub id or package:NAME.")
    if not _HUB_ID.fullmatch(model):
        raise InputError(f"There is no folder {model}. Give a folder, a hub id or package:NAME.")
    return _on_hub(model, revision, allow_pickle, download)


def find_weight_files(folder: Path, allow_pickle: bool) -> list[Path]:
    """Find the weight files of a model, sorted by name.

    Raises:
        InputError: there are none, an index lists a missing file, or they are pickle files and pickle is not allowed.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if name.endswith(".bin") and not allow_pickle:
            break
        if (folder / name).is_file():
            return [_real(folder / name)]
        if index.is_file():
            places = read_object(index).get("weight_map")
            if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
                raise InputError(f"{index} has no weight_map from tensors to files. Copy the whole checkpoint again.")
            shards = sorted(set(places.values()))
            outside = [shard for shard in shards if Path(shard).name != shard]
            if not shards or outside:
                raise InputError(f"{index} lists {outside[:1] or 'no files'}. Copy the whole checkpoint again.")
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise InputError(f"{index} lists {missing[0]}, which is missing. Copy the whole checkpoint again.")
            return [_real(folder / shard) for shard in shards]
    if (folder / _ADAPTER).is_file():
        raise InputError(
            f"{folder} holds a LoRA adapter ({_ADAPTER}) without the weights of its base model. Merge it into the base "
            "model (merge_and_unload of peft) and save the whole model."
        )
    if any(any(folder.glob(pattern)) for pattern in _PICKLES):
        raise InputError(
            f"{folder} has its weights as pickle only, and loading a pickle can run any code. Convert it to "
            "safetensors, or set `allow_pickle=True` if you trust its author."
        )
    raise InputError(f"{folder} has no model.safetensors. Give the folder of a checkpoint.")


def _real(path: Path) -> Path:
    """The path of a weights file, unless it is the pointer that a clone without git-lfs has in its place."""
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise InputError(f"{path} is a git-lfs pointer, not the weights. Run git lfs pull in its folder.")
    return path


def _in_package(model: str) -> Location:
    name = model.removeprefix(PACKAGE_PREFIX)
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise InputError(f"The Python package '{name}' is not installed. {_instead_of(name)}") from None
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    for marker in ("modules.json", "config.json"):
        folders = sorted({file.parent for file in files if file.name == marker}, key=lambda path: len(path.parts))
        if folders:
            return Location(model, folders[0], distribution.version)
    raise InputError(f"The Python package '{name}' contains no model: it has neither modules.json nor config.json.")


def _instead_of(name: str) -> str:
    """What to do about a package that is not installed: an installed one of a similar name, or install it."""
    installed = {str(one.metadata["Name"]) for one in importlib.metadata.distributions()}
    similar = difflib.get_close_matches(name, sorted(installed), n=1, cutoff=0.8)
    return f"Did you mean {PACKAGE_PREFIX}{similar[0]}?" if similar else f"Run: pip install {name}"


def _on_hub(model: str, revision: str | None, allow_pickle: bool, download: bool) -> Location:
    from huggingface_hub import snapshot_download

    patterns = [*_HUB_FILES, *(_PICKLES if allow_pickle else ())]
    try:
        path = Path(snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=not download))
    except Exception as error:
        if not download:
            raise InputError(
                f"'{model}' is a model of the hub that is not in the local cache, and nothing is downloaded unasked."
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"'{model}' is not a folder, and downloading it from the hub failed: {reason}") from error
    return Location(model, path, path.name)
