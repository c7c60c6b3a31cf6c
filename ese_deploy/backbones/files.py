"""Reading the small files of a checkpoint, with errors that name the file and the key."""

import json
from pathlib import Path
from typing import Any

from ese_deploy.errors import InputError

__all__ = ["read_json", "read_object", "require_integer"]

_MAX_BYTES = 64 << 20


def read_json(path: Path, optional: bool = False) -> Any:
    """Read a JSON file; an optional file that is missing reads as an empty object.

    Raises:
        InputError: the file cannot be read, or is larger than 64 MiB.
    """
    if optional and not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is larger than {_MAX_BYTES >> 20} MiB, too large for settings.")
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Cannot read {path}: {error}") from error


def read_object(path: Path, optional: bool = False) -> dict[str, Any]:
    """Read a JSON file whose value is an object.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    value = read_json(path, optional)
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold an object, got {type(value).__name__}. Copy the checkpoint again.")
    return value


def require_integer(settings: dict[str, Any], key: str, path: Path) -> int:
    """A positive integer of a file.

    Raises:
        InputError: the key is missing, or its value is something else.
    """
    value = settings.get(key)
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise InputError(f"{path}: {key} is {value!r}, which must be a number from 1 on. Copy the checkpoint again.")
    return value
