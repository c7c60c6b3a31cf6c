"""The folder of a run: what it was begun with, its checkpoints, and whether it can be gone on with."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.system.files import explain_os_error, restore_folder, sync_folder, write_atomic

__all__ = ["RunFolder", "decisive", "finish_checkpoint", "is_done", "last_checkpoint", "open_run"]

_SETTINGS = "run.json"
_COMPLETE = "complete"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# What does not change the weights, and may differ between a run and its resumption.
_FREE = re.compile(
    r"resume|recipe|notes|save_dir|truncate_to|workers|use_cpu|logging_steps|save_(steps|strategy|total_limit)|"
    r"eval_(steps|strategy)|valid_.*|wandb_.*"
)
_ROOM_AROUND = 64 << 20


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes.

    Attributes:
        save_dir: the finished model.
        path: checkpoints and settings of the run.
        checkpoint: the checkpoint to go on after, or None.
    """

    save_dir: Path
    path: Path
    checkpoint: Path | None


def open_run(save_dir: Path, settings: Mapping[str, Any], resume: bool, model_bytes: int, kept: int) -> RunFolder:
    """Look at what is there, and find out before training whether its result can be written.

    Args:
        save_dir: where the finished model goes; must not exist, or be empty.
        settings: what the run is begun with, as JSON can hold it.
        resume: go on after the last whole checkpoint, if there is one.
        model_bytes: size of the weights; 0 where no checkpoints are written.
        kept: number of checkpoints kept.

    Raises:
        InputError: something is there that would be lost, the settings are not those of the run to go on with, or the
            folder cannot be written or is too small.
    """
    path = save_dir.with_name(f"{save_dir.name}.run")
    restore_folder(save_dir)
    if save_dir.exists() and (not save_dir.is_dir() or any(save_dir.iterdir())):
        what = "the model of this run, which is finished" if resume else "something already, which is never overwritten"
        raise InputError(f"{save_dir} holds {what}; choose another --save_dir, or remove it")
    found = last_checkpoint(path)
    if found and not resume:
        raise InputError(f"{path} holds a run up to {found.name}; go on with --resume 1, or remove that folder")
    fixed = decisive(settings)
    if found:
        _compare(path, fixed)
    with explain_os_error(path):
        path.mkdir(parents=True, exist_ok=True)
        with write_atomic(path / _SETTINGS) as file:
            file.write(json.dumps(fixed, indent=2).encode() + b"\n")
    # Weights and two moments of the optimiser in each checkpoint, one of which is written before another goes.
    needed = model_bytes * (3 * (kept + 1) + 1) + _ROOM_AROUND
    free = shutil.disk_usage(path).free
    if free < needed:
        raise InputError(
            f"{path} has {free / 1e6:,.0f} MB of room, and checkpoints and model need {needed / 1e6:,.0f} MB; "
            "free some, or choose another --save_dir"
        )
    return RunFolder(save_dir, path, found)


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings on which the weights depend, without what was left at nothing."""
    return {
        name: value
        for name, value in settings.items()
        if not _FREE.fullmatch(name) and value is not None and value not in ([], {})
    }


def last_checkpoint(path: Path) -> Path | None:
    """The last checkpoint of a run that was written to its end."""
    whole = [folder for folder in _checkpoints(path) if (folder / _COMPLETE).is_file()]
    return whole[-1] if whole else None


def is_done(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of the run's last step."""
    state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def finish_checkpoint(folder: Path, kept: int) -> None:
    """Mark a checkpoint as written to its end, and only then remove those before it.

    Args:
        folder: the checkpoint.
        kept: how many remain.
    """
    with explain_os_error(folder):
        sync_folder(folder)
        with write_atomic(folder / _COMPLETE):
            pass
        others = [other for other in _checkpoints(folder.parent) if other != folder]
        whole = [other for other in others if (other / _COMPLETE).is_file()]
        spare = set(whole[-(kept - 1) :]) if kept > 1 else set()
        for other in others:
            if other not in spare:
                # Without its mark first: a crash in between leaves no half checkpoint that looks whole.
                (other / _COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(other)


def _checkpoints(path: Path) -> list[Path]:
    """Checkpoints in the order of their steps."""
    if not path.is_dir():
        return []
    found = [(match, folder) for folder in path.iterdir() if (match := _CHECKPOINT.fullmatch(folder.name))]
    return [folder for match, folder in sorted(found, key=lambda item: int(item[0][1]))]


def _compare(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        begun = json.loads((path / _SETTINGS).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path / _SETTINGS} cannot be read: {error}; remove {path} to begin anew") from None
    given = json.loads(json.dumps(settings))
    for name in sorted({*begun, *given}):
        if begun.get(name) != given.get(name):
            raise InputError(
                f"{path} was begun with {name} {begun.get(name)}, got {given.get(name)}; a run goes on with the "
                "settings that it was begun with"
            )
