"""``ese.json``: which exits and prefixes of a checkpoint were trained."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ese_deploy.errors import InputError

__all__ = ["ESE_FILE", "EseContract", "read_contract"]

ESE_FILE = "ese.json"
_SCHEMA_VERSION = 1
# A reader of version 1 would apply the projection twice where the model has it as a module.
_VERSION_WITH_MODULE = 2

Positive = Annotated[int, Meta(ge=1)]
Depth = Annotated[int, Meta(ge=0)]


class EseContract(Struct, frozen=True, kw_only=True):
    """The content of ``ese.json``, which training writes and export reads.

    Attributes:
        schema_version: 2 with a ``projection_module``, otherwise 1.
        variant: the loss that trained the exits.
        trained_exits: depths of the trained exits; 0 is the table of token vectors.
        trained_dims: trained prefix lengths.
        aligned_exits: whether the trained exits share one embedding space.
        settings: settings of the loss.
        versions: versions of the libraries.
        projection_module: folder of the Dense module that is the full depth's projection, if the model has one. It is
            there for other tools: exports read ``projection.safetensors``.
    """

    schema_version: int = _SCHEMA_VERSION
    variant: str
    trained_exits: list[Depth]
    trained_dims: list[Positive]
    aligned_exits: bool = False
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    projection_module: str | None = None

    def with_module(self, folder: str | None) -> "EseContract":
        """The contract of a model that has the full depth's projection as a module in ``folder``, or not at all."""
        version = _VERSION_WITH_MODULE if folder else _SCHEMA_VERSION
        return msgspec.structs.replace(self, schema_version=version, projection_module=folder)


def read_contract(folder: Path, depth: int) -> EseContract | None:
    """Read a checkpoint's ``ese.json``.

    Args:
        folder: the checkpoint.
        depth: number of layers of the model.

    Returns:
        None if the checkpoint has no such file.

    Raises:
        InputError: the file is malformed, has another version, or names exits that the model does not have.
    """
    path = folder / ESE_FILE
    if not path.is_file():
        return None
    try:
        contract = msgspec.json.decode(path.read_bytes(), type=EseContract)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"Cannot read {path}: {error}. Save the checkpoint again or delete the file.") from None
    if contract.schema_version not in (_SCHEMA_VERSION, _VERSION_WITH_MODULE):
        raise InputError(
            f"{path} has schema_version {contract.schema_version}, this ese-deploy reads up to {_VERSION_WITH_MODULE}. "
            "Update ese-deploy."
        )
    outside = [exit_ for exit_ in contract.trained_exits if exit_ > depth]
    if outside:
        raise InputError(f"{path} lists exit {outside[0]} as trained, but the model has {depth} layers.")
    return contract
