"""From a command line, and the recipe that it names, to one set of settings."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from ese_deploy.errors import InputError
from ese_deploy.system.files import expand
from ese_deploy.target import parse_range
from ese_deploy.training.flags import ALIASES, FLAGS, REFUSED, SILENT
from ese_deploy.training.recipes import check_loss_settings, parse_setting, read_recipe

__all__ = ["parse_arguments"]

_NEEDED = ("model_name_or_path", "save_dir")
_LOSS_FLAGS = {
    "ese_variant": "variant",
    "exits": "exits",
    "dims": "dims",
    "maps": "projections",
    "align_w": "align_w",
    "ese_compression_size": "compression_size",
    "ese_kl_temperature": "kl_temperature",
}
_OBJECTIVE = (
    "cosine_w",
    "ibn_w",
    "cln_w",
    "angle_w",
    "cosine_tau",
    "ibn_tau",
    "angle_tau",
    "loss_version",
    "mask_false_negatives",
)
_DEFAULT_SEED = 42


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m training.train --help")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line.

    Returns:
        A value for each of :data:`ese_deploy.training.flags.FLAGS` but those of the loss. Instead of them: ``loss``,
        settings for ``EseLoss``; ``objective``, settings for ``AngleObjective``; ``notes``, lines for a person.

    Raises:
        InputError: a flag is unknown, refused, of the wrong kind or missing; or the recipe is.
    """
    parser = _build_parser()
    given, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        _refuse_unknown(unknown[0])
    named = vars(given)
    flags: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    notes: list[str] = []
    if "recipe" in named:
        recipe = read_recipe(named["recipe"])
        flags = vars(parser.parse_args(recipe.arguments))
        loss = dict(recipe.loss)
        notes.append(f"recipe {named['recipe']}: {recipe.description}")
    for old, new in ALIASES.items():
        if old in named:
            named.setdefault(new, named.pop(old))
            notes.append(f"--{old} is --{new} now")
    if "epochs" in named:
        # Else the recipe's would end the run before.
        flags.pop("max_steps", None)
    flags.update(named)
    _refuse(flags)
    merged = {flag.name: flag.default for flag in FLAGS} | {
        name: value for name, value in flags.items() if name not in (*REFUSED, *SILENT, *ALIASES)
    }
    for name in _NEEDED:
        if not merged[name]:
            raise InputError(f"--{name} is missing; see python -m training.train --help")
    merged["save_dir"] = str(expand(merged["save_dir"]))
    if merged["fp16"] and merged["bf16"]:
        raise InputError("--fp16 1 and --bf16 1 were both given; choose one")
    for name in ("train_name_or_path", "valid_name_or_path", "valid_name_or_path_for_callback"):
        merged[name] = [part for item in merged[name] or [] for part in item.split(",") if part]
    merged["seed"] = _DEFAULT_SEED if merged["seed"] < 0 else merged["seed"]
    asked = _loss_settings(flags)
    if asked and not merged["apply_ese"]:
        notes.append(f"not used with --apply_ese 0: {', '.join(asked)}")
    if "variant" in loss and asked.get("variant", loss["variant"]) != loss["variant"]:
        notes.append(f"not used by {asked['variant']}: the recipe's settings of the loss")
        loss = {}
    loss |= asked
    objective = {name: flags[name] for name in _OBJECTIVE if name in flags}
    for name in (*_OBJECTIVE, *_LOSS_FLAGS, "loss_setting"):
        del merged[name]
    return argparse.Namespace(**merged, loss=loss, objective=objective, notes=notes)


def _build_parser() -> _Parser:
    parser = _Parser(
        prog="python -m training.train",
        description="Train a sentence-embedding model so that it can stop at any depth and keep any prefix.",
        epilog="Flags have the names of AnglE's trainer; docs/training.md has the rest.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.MetavarTypeHelpFormatter,
    )
    for flag in FLAGS:
        settings: dict[str, Any] = {"action": "append"} if flag.repeated else {}
        shown = (
            ""
            if flag.default is None
            else f" ({int(flag.default) if flag.kind.__name__ == 'switch' else flag.default})"
        )
        parser.add_argument(f"--{flag.name}", type=flag.kind, choices=flag.choices, help=flag.help + shown, **settings)
    for name in REFUSED:
        parser.add_argument(f"--{name}", type=str, nargs="?", const="1", help=argparse.SUPPRESS)
    for name in (*SILENT, *ALIASES):
        kind = next((flag.kind for flag in FLAGS if flag.name == ALIASES.get(name)), str)
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return parser


def _as_typed(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else f"{value}"


def _refuse(flags: dict[str, Any]) -> None:
    for name, (allowed, reason) in REFUSED.items():
        if name in flags and flags[name] not in allowed:
            raise InputError(f"--{name} {flags[name]} is refused: {reason}")


def _refuse_unknown(flag: str) -> NoReturn:
    names = [f"--{flag.name}" for flag in FLAGS]
    close = difflib.get_close_matches(flag.partition("=")[0], names, n=1)
    advice = f"did you mean {close[0]}?" if close else "see python -m training.train --help"
    raise InputError(f"'{flag}' is no flag of training.train; {advice}")


def _loss_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """Settings for ``EseLoss`` that the command line names."""
    settings = dict(parse_setting(item) for item in flags.get("loss_setting", []))
    check_loss_settings(settings, "--loss_setting")
    for flag, name in _LOSS_FLAGS.items():
        if flag in flags:
            value = flags[flag]
            settings[name] = parse_range(value, f"--{flag}") if flag in ("exits", "dims") else value
    return settings
