"""Recipes: a command line as a TOML file, and the settings of the loss."""

import difflib
import inspect
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from ese_deploy.errors import InputError
from ese_deploy.system.files import expand
from ese_deploy.training.flags import FLAGS

__all__ = ["Recipe", "check_loss_settings", "parse_setting", "read_recipe", "recipe_names"]

_FOLDER = Path(__file__).with_name("presets")
_LOSS = "loss"
_DESCRIPTION = "description"


@dataclass(frozen=True)
class Recipe:
    """What a recipe says.

    Attributes:
        description: one line.
        arguments: its flags, as a command line has them.
        loss: settings for ``EseLoss``.
    """

    description: str
    arguments: list[str]
    loss: dict[str, Any]


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """Read a recipe.

    Args:
        name: one that comes with the project, or a TOML file.

    Raises:
        InputError: there is no such recipe, it is no TOML, or it has keys that nothing reads.
    """
    path = _FOLDER / f"{name}.toml" if name in recipe_names() else expand(name)
    if not path.is_file():
        raise InputError(f"there is no recipe '{name}' and no such file; recipes are {', '.join(recipe_names())}")
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from None
    description = content.pop(_DESCRIPTION, "")
    loss = content.pop(_LOSS, {})
    if not isinstance(loss, dict):
        raise InputError(f"{path} has '{_LOSS}' as {type(loss).__name__}; it is a table: [{_LOSS}]")
    repeated = {flag.name: flag.repeated for flag in FLAGS if flag.name != "recipe"}
    _check_names(content, repeated, str(path), f"flags, '{_DESCRIPTION}' and the table [{_LOSS}]")
    check_loss_settings(loss, str(path))
    arguments = [
        f"--{key}={_as_text(item)}"
        for key, value in content.items()
        for item in (value if isinstance(value, list) and repeated[key] else [value])
    ]
    return Recipe(str(description), arguments, loss)


def check_loss_settings(settings: Mapping[str, Any], where: str) -> None:
    """Check the names and kinds of settings for ``EseLoss``.

    Raises:
        InputError: it has no such setting, or one of another kind.
    """
    if not settings:
        return
    from ese_deploy.losses import EseLoss, EspressoSettings

    keywords = inspect.signature(EseLoss).parameters.values()
    own = {item.name: item.annotation for item in keywords if item.kind is inspect.Parameter.KEYWORD_ONLY}
    # Of these the loss says what they may be.
    kinds = {**own, **get_type_hints(EspressoSettings), "projections": bool | int, "variant": str, "teacher": str}
    del kinds["seed"]
    _check_names(settings, kinds, where, "settings of the loss")
    for name, value in settings.items():
        try:
            msgspec.convert(value, kinds[name])
        except msgspec.ValidationError as error:
            raise InputError(f"{where} has {name}={value}, a setting of the loss of the wrong kind: {error}") from None


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``name=value``, the value as TOML writes it; a bare word is a string.

    Raises:
        InputError: it is not of that form.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise InputError(f"--loss_setting {text} must read name=value, such as temperature=20")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _check_names(given: Iterable[str], allowed: Iterable[str], where: str, what: str) -> None:
    known = sorted(allowed)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise InputError(f"{where} has '{name}', which nothing reads; {hint}{what} are: {', '.join(known)}")


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
