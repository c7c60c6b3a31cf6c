"""``ese.json``: which exits and prefixes of a checkpoint were trained."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ese_deploy.errors import InputError

__all__ = ["ESE_FILE", "EseContract", "read_contract"]

ESE_FILE = "ese.json"
_SCHEMA_VERSION = 1

Positive = Annotated[int, Meta(ge=1)]


class EseContract(Struct, frozen=True, kw_only=True):
    """The content of ``ese.json``, which training writes and export reads.

    Attributes:
        schema_version: 1.
        variant: the loss that trained the exits.
        trained_exits: depths of the trained exits.
        trained_dims: trained prefix lengths.
        aligned_exits: whether the trained exits share one embedding space.
        settings: settings of the loss.
        versions: versions of the libraries.
    """

    schema_version: int = _SCHEMA_VERSION
    variant: str
    trained_exits: list[Positive]
    trained_dims: list[Positive]
    aligned_exits: bool = False
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}


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
    if contract.schema_version != _SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema_version {contract.schema_version}, this ese-deploy reads {_SCHEMA_VERSION}. "
            "Update ese-deploy."
        )
    outside = [exit_ for exit_ in contract.trained_exits if exit_ > depth]
    if outside:
        raise InputError(f"{path} lists exit {outside[0]} as trained, but the model has {depth} layers.")
    return contract
