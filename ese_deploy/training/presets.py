"""Training presets: options as a TOML file, with the settings of the loss in a table."""

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
from ese_deploy.training.settings import OPTIONS

__all__ = ["OLD_NAMES", "Preset", "check_loss_settings", "parse_loss_setting", "preset_names", "read_preset"]

OLD_NAMES = {old: option.name for option in OPTIONS.values() for old in option.old}
"""Option names by their earlier names."""

_FOLDER = Path(__file__).with_name("presets")
_LOSS = "loss"
_DESCRIPTION = "description"


@dataclass(frozen=True)
class Preset:
    """The content of a preset.

    Attributes:
        description: one line.
        options: values by option name, as TOML reads them.
        loss: settings of ``EseLoss``.
    """

    description: str
    options: dict[str, Any]
    loss: dict[str, Any]


def preset_names() -> list[str]:
    """Names of the presets that the package ships."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_preset(name: str) -> Preset:
    """Read a preset.

    Args:
        name: a preset of the package, or a TOML file.

    Raises:
        InputError: there is no such preset, it is not TOML, or it has an unknown key.
    """
    path = _FOLDER / f"{name}.toml" if name in preset_names() else expand(name)
    if not path.is_file():
        raise InputError(f"Unknown preset '{name}'. Choose one of: {', '.join(preset_names())}; or name a TOML file.")
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}") from None
    description = content.pop(_DESCRIPTION, "")
    loss = content.pop(_LOSS, {})
    if not isinstance(loss, dict):
        raise InputError(f"{path}: '{_LOSS}' must be a table, [{_LOSS}].")
    options = {OLD_NAMES.get(key, key): value for key, value in content.items()}
    allowed = [option for option in OPTIONS if option != "preset"]
    check_names(options, allowed, str(path), f"an option, '{_DESCRIPTION}' or the table [{_LOSS}]")
    loss = {OLD_NAMES.get(key, key): value for key, value in loss.items()}
    check_loss_settings(loss, str(path))
    return Preset(str(description), options, loss)


def check_loss_settings(settings: Mapping[str, Any], where: str) -> None:
    """Check the names and types of settings of ``EseLoss``.

    Raises:
        InputError: a setting is unknown or has the wrong type.
    """
    if not settings:
        return
    from ese_deploy.losses import VARIANTS, EspressoSettings

    types: dict[str, Any] = {"variant": str}
    for variant in VARIANTS.values():
        keywords = inspect.signature(variant).parameters.values()
        types |= {item.name: item.annotation for item in keywords if item.kind is inspect.Parameter.KEYWORD_ONLY}
    # The loss itself checks the values of these.
    types |= {**get_type_hints(EspressoSettings), "projections": bool | int, "teacher": str}
    check_names(settings, types, where, "a setting of the loss")
    for name, value in settings.items():
        try:
            msgspec.convert(value, types[name])
        except msgspec.ValidationError as error:
            raise InputError(f"{where}: the loss setting {name}={value} has the wrong type: {error}") from None


def parse_loss_setting(text: str) -> tuple[str, Any]:
    """Read ``name=value``, the value as in TOML; a bare word is a string.

    Raises:
        InputError: the text has another form.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise InputError(f"'{text}' is not of the form name=value, such as temperature=20.")
    name = OLD_NAMES.get(name, name)
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def check_names(given: Iterable[str], allowed: Iterable[str], where: str, what: str) -> None:
    """Check that names are known.

    Raises:
        InputError: a name is not among ``allowed``.
    """
    known = sorted(allowed)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            advice = f"Did you mean '{close[0]}'?" if close else f"Choose from: {', '.join(known)}."
            raise InputError(f"{where}: '{name}' is not {what}. {advice}")
