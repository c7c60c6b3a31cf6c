"""Adds the loss's state and ``ese.json`` to the trainer's checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load, save
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ese_deploy.backbones.contract import ESE_FILE, EseContract
from ese_deploy.errors import InputError
from ese_deploy.losses.full import AngleLoss
from ese_deploy.losses.loss import EseLoss
from ese_deploy.projections.projection import PROJECTIONS_FILE, Projection, encode_projections
from ese_deploy.projections.tokens import TOKENS_FILE, encode_tokens
from ese_deploy.system.files import explain_os_error, write_atomic

__all__ = ["STATE_FILE", "EseCallback", "restore_loss", "save_contract"]

STATE_FILE = "ese_loss.safetensors"


class EseCallback(TrainerCallback):
    """Saves the loss's state with every checkpoint, restores it when a run resumes, and tells the loss the step.

    Args:
        loss: the trainer's loss.
    """

    def __init__(self, loss: EseLoss | AngleLoss) -> None:
        self.loss = loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the loss's state if the run resumes from a checkpoint.

        Raises:
            InputError: the checkpoint does not have it.
        """
        self.loss.global_step = state.global_step
        if state.global_step > 0:
            restore_loss(self.loss, _checkpoint(args, state))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the loss the step, for its error messages."""
        self.loss.global_step = state.global_step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save the loss's state and ``ese.json`` into the checkpoint, on the main process only."""
        if not isinstance(self.loss, EseLoss) or not state.is_world_process_zero:
            return
        folder = _checkpoint(args, state)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.loss.training_state().items()}
        with explain_os_error(folder), write_atomic(folder / STATE_FILE) as file:
            file.write(save(tensors))
        save_contract(folder, self.loss.contract(), self.loss.trained_projections())


def restore_loss(loss: EseLoss | AngleLoss, folder: Path) -> None:
    """Load the state that :class:`EseCallback` saved with a checkpoint.

    Raises:
        InputError: the checkpoint does not have it, or it cannot be read.
    """
    if not isinstance(loss, EseLoss):
        return
    path = folder / STATE_FILE
    if not path.is_file():
        raise InputError(
            f"{path} is missing. The run cannot resume without it. Resume from another checkpoint of {folder.parent}."
        )
    try:
        loss.load_training_state(load(path.read_bytes()))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read: {error}. Resume from an earlier checkpoint.") from None


def save_contract(
    folder: Path, contract: EseContract, projections: Mapping[int, Projection] = MappingProxyType({})
) -> None:
    """Write ``ese.json``, the exits' projections and their token features, if any, into a checkpoint.

    Each file is written atomically.

    Args:
        folder: the folder that ``model.save_pretrained`` wrote.
        contract: of :meth:`EseLoss.contract`.
        projections: of :meth:`EseLoss.trained_projections`.
    """
    if projections:
        with explain_os_error(folder), write_atomic(folder / PROJECTIONS_FILE) as file:
            file.write(encode_projections(projections))
        tokens = next((one.tokens for one in projections.values() if one.tokens is not None), None)
        if tokens is not None:
            with explain_os_error(folder), write_atomic(folder / TOKENS_FILE) as file:
                file.write(encode_tokens(tokens))
    with explain_os_error(folder), write_atomic(folder / ESE_FILE) as file:
        file.write(msgspec.json.format(msgspec.json.encode(contract)) + b"\n")


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
