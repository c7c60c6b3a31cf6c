"""The folder of a run: its settings, its checkpoints, and whether it can be resumed."""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.system.files import (
    apply_umask,
    explain_os_error,
    restore_folder,
    sha256_file,
    sync_folder,
    write_atomic,
)
from ese_deploy.training.presets import OLD_NAMES
from ese_deploy.training.settings import LOSS_OPTIONS, OPTIONS, TrainingSettings

__all__ = ["RunFolder", "check_out", "finish_checkpoint", "fixed_settings", "is_done", "last_checkpoint", "open_run"]

_log = logging.getLogger(__name__)

_SETTINGS = "run.json"
_COMPLETE = "complete"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# Options that do not change the weights and may differ when a run resumes.
_FREE_GROUPS = ("run", "output")
_FREE = re.compile(r"workers|use_cpu|(valid|scored)(_.*)?")
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes.

    Attributes:
        out: folder of the trained model.
        path: folder of the checkpoints and settings of the run.
        checkpoint: the checkpoint to resume from, or None.
    """

    out: Path
    path: Path
    checkpoint: Path | None


def open_run(out: Path, settings: Mapping[str, Any], resume: bool, model_bytes: int, kept: int) -> RunFolder:
    """Create the folder of a run, and check before training that the result can be written.

    Args:
        out: where the trained model goes; must not exist, or be empty.
        settings: settings that may not change when the run resumes; values must suit JSON.
        resume: resume from the last complete checkpoint, if there is one.
        model_bytes: size of the weights; 0 if no checkpoints are written.
        kept: number of checkpoints kept.

    Raises:
        InputError: the folder has content that would be lost, the settings differ from those of the run to resume, or
            the folder cannot be written or the disk is too full.
    """
    path = out.with_name(f"{out.name}.run")
    restore_folder(out)
    check_out(out, resume)
    found = last_checkpoint(path)
    if found and not resume:
        raise InputError(f"{path} holds a run up to {found.name}. Resume it with `resume=1`, or remove that folder.")
    if found:
        _compare(path, settings)
    with explain_os_error(path):
        path.mkdir(parents=True, exist_ok=True)
        with write_atomic(path / _SETTINGS) as file:
            file.write(json.dumps(settings, indent=2).encode() + b"\n")
    # Each checkpoint has the weights and two moments of the optimiser. A new one is written before an old one goes.
    needed = model_bytes * (3 * (kept + 1) + 1) + _SPARE_BYTES
    free = shutil.disk_usage(path).free
    if free < needed:
        raise InputError(
            f"{path} has {free / 1e6:,.0f} MB of free space. Checkpoints and model need {needed / 1e6:,.0f} MB. Free "
            "some, or choose another `out`."
        )
    return RunFolder(out, path, found)


def check_out(out: Path, resume: bool) -> None:
    """Check that the output folder is free.

    Raises:
        InputError: it has content, which is never overwritten.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "holds the model of this run, which is finished" if resume else "is not empty and is never overwritten"
        raise InputError(f"{out} {what}. Choose another `out`, or remove it.")


def fixed_settings(settings: TrainingSettings) -> dict[str, Any]:
    """The settings on which the weights depend, without empty ones; those of the loss and the objective are nested."""
    nested = {"loss": settings.loss(), "objective": settings.objective()}
    apart = {*LOSS_OPTIONS, "loss_setting", *nested["objective"]}
    flat = {
        name: getattr(settings, name)
        for name, option in OPTIONS.items()
        if option.group not in _FREE_GROUPS and not _FREE.fullmatch(name) and name not in apart
    }
    return {name: value for name, value in {**flat, **nested}.items() if value not in (None, "", (), {})}


def last_checkpoint(path: Path) -> Path | None:
    """The last complete checkpoint of a run whose files are as they were written.

    A damaged one is named in a warning, and the one before is taken.
    """
    for folder in reversed(_checkpoints(path)):
        if not (folder / _COMPLETE).is_file():
            continue
        damaged = _damaged_file(folder)
        if damaged is None:
            return folder
        _log.warning("%s is not as it was written. The checkpoint is not used.", damaged)
    return None


def _damaged_file(folder: Path) -> Path | None:
    """The first file of a checkpoint that is missing or has another hash; None if all are whole.

    Checkpoints of earlier versions have no hashes.
    """
    mark = folder / _COMPLETE
    try:
        text = mark.read_text("utf-8")
        hashes = json.loads(text) if text else {}
        entries = [(folder / str(name), str(digest)) for name, digest in hashes.items()]
    except (OSError, ValueError, AttributeError):
        return mark
    for path, digest in entries:
        if not path.is_file() or sha256_file(path) != digest:
            return path
    return None


def is_done(checkpoint: Path) -> bool:
    """Whether a checkpoint belongs to the last step of the run."""
    state = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def finish_checkpoint(folder: Path, kept: int) -> None:
    """Mark a checkpoint as complete, with the hashes of its files, and only then remove older ones.

    Args:
        folder: the checkpoint.
        kept: number of checkpoints to keep.
    """
    with explain_os_error(folder):
        apply_umask(folder)
        sync_folder(folder)
        hashes = {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != _COMPLETE
        }
        with write_atomic(folder / _COMPLETE) as file:
            file.write(json.dumps(hashes, indent=1).encode() + b"\n")
        others = [other for other in _checkpoints(folder.parent) if other != folder]
        whole = [other for other in others if (other / _COMPLETE).is_file()]
        spare = set(whole[-(kept - 1) :]) if kept > 1 else set()
        for other in others:
            if other not in spare:
                # The mark goes first: a crash in between must not leave a partial checkpoint that looks complete.
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
        raise InputError(f"{path / _SETTINGS} cannot be read: {error}. Remove {path} to start again.") from None
    given = json.loads(json.dumps(settings))
    begun = {OLD_NAMES.get(name, name): value for name, value in begun.items()}
    for name in sorted({*begun, *given}):
        if begun.get(name) != given.get(name):
            raise InputError(
                f"{path} was started with {name} = {begun.get(name)}, got {given.get(name)}. Resume with the "
                "settings of the run."
            )
