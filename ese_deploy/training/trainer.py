"""sentence-transformers' trainer, configured from the settings of a run."""

import dataclasses
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.training_args import BatchSamplers, MultiDatasetBatchSamplers
from transformers import PrinterCallback, ProgressCallback

from ese_deploy.backbones.quiet import quiet_transformers
from ese_deploy.errors import InputError
from ese_deploy.losses import EspressoSettings
from ese_deploy.training.settings import TrainingSettings

__all__ = ["EseTrainer", "ProcessBatches", "choose_precision", "text_columns", "training_arguments", "world_size"]

logger = logging.getLogger(__name__)


class EseTrainer(SentenceTransformerTrainer):
    """The trainer without its model card, which queries the hub, and without its own output."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The loss of a batch is a mean. For models whose forward takes **kwargs, transformers would not divide by the
        # number of batches in a step.
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add no callback."""

    def get_batch_sampler(self, dataset: Dataset, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        """Batches of all processes together, so that all have the same format in each step.

        With several formats, every batch has the same number of texts: ``batch_size`` rows of the widest format.
        """
        together = self.train_dataset
        parts = list(together.values()) if isinstance(together, DatasetDict) else [together]
        if not any(dataset is part for part in parts):
            # Evaluation uses every row, but processes need batches of equal size.
            kwargs["drop_last"] = world_size() > 1
            return super().get_batch_sampler(dataset, batch_size, *args, **kwargs)
        batch_size = batch_size * max(map(text_columns, parts)) // text_columns(dataset)
        sampler = super().get_batch_sampler(dataset, batch_size * world_size(), *args, **kwargs)
        return _for_processes(sampler) if dataset is together else sampler

    def get_multi_dataset_batch_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Batches of several formats."""
        return _for_processes(super().get_multi_dataset_batch_sampler(*args, **kwargs))

    def load_weights(self, checkpoint: Path) -> None:
        """Load the weights of a checkpoint and nothing else."""
        self._load_from_checkpoint(str(checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with quiet_transformers():
            super()._load_from_checkpoint(resume_from_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        with quiet_transformers():
            self.model.save_pretrained(output_dir or str(self.args.output_dir), create_model_card=False)


class ProcessBatches:
    """Splits each batch of a sampler into equal parts, one for each process in turn.

    It has no ``batch_size``, so that accelerate distributes the parts whatever their sizes are.

    Args:
        together: yields batches for all processes; their sizes must be multiples of ``processes``.
        processes: number of processes.
    """

    def __init__(self, together: Any, processes: int) -> None:
        self._together = together
        self._processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._together:
            size = len(batch) // self._processes
            yield from (batch[size * rank : size * (rank + 1)] for rank in range(self._processes))

    def __len__(self) -> int:
        return len(self._together) * self._processes

    @property
    def sampler(self) -> "ProcessBatches":
        """The object that accelerate calls ``set_epoch`` on."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Make the sampler draw a new order."""
        self._together.set_epoch(epoch)


def _for_processes(sampler: Any) -> Any:
    return sampler if world_size() == 1 else ProcessBatches(sampler, world_size())


def text_columns(dataset: Dataset) -> int:
    """Number of texts in a row."""
    return len([name for name in dataset.column_names if name != "label"])


def world_size() -> int:
    """Number of processes, as torchrun sets it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def choose_precision(settings: TrainingSettings) -> TrainingSettings:
    """The settings with ``use_cpu``, ``fp16`` and ``bf16`` limited to what this machine supports."""
    use_cpu = settings.use_cpu or not torch.accelerator.is_available()
    fp16 = settings.fp16 and not use_cpu
    bf16 = settings.bf16 and (not use_cpu or _cpu_has_bf16())
    if settings.fp16 and not fp16:
        logger.warning("CPUs do not train in fp16. Training in fp32.")
    if settings.bf16 and not bf16:
        logger.warning("This CPU does not support bf16. Training in fp32.")
    return dataclasses.replace(settings, use_cpu=use_cpu, fp16=fp16, bf16=bf16)


def _cpu_has_bf16() -> bool:
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return ask is not None and bool(ask())


def _may_skip_layers(loss: Mapping[str, Any], label_free: bool) -> bool:
    """Whether the deepest layers may get no gradient in a step: no part of the loss reads the full model."""
    if not loss.get("train_full", EspressoSettings.train_full):
        return True
    unlabelled = label_free or loss.get("express_w", EspressoSettings.express_w) == 0
    return bool(unlabelled and loss.get("hold_w", EspressoSettings.hold_w) == 0)


def training_arguments(
    settings: TrainingSettings, folder: Path, rows: int, *, label_free: bool
) -> SentenceTransformerTrainingArguments:
    """The trainer's arguments.

    Args:
        settings: after :func:`choose_precision`.
        folder: where checkpoints go.
        rows: number of rows of training data; of several formats the smallest, in rows of the widest.
        label_free: whether some of the data has no labels.

    Raises:
        InputError: the data is too small for the processes, or Weights & Biases is not installed.
    """
    processes = world_size()
    if processes > 1 and rows < settings.batch_size * processes:
        raise InputError(
            f"{rows} rows do not fill one batch of {settings.batch_size} on each of {processes} processes. Use a "
            "smaller `batch_size`."
        )
    if settings.wandb_project:
        if importlib.util.find_spec("wandb") is None:
            raise InputError("Logging to Weights & Biases needs wandb: pip install wandb.")
        os.environ["WANDB_PROJECT"] = settings.wandb_project
        os.environ["WANDB_LOG_MODEL"] = settings.wandb_log_model or "false"
    evaluates = bool(settings.valid) and settings.eval_strategy != "no"
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type=settings.lr_scheduler_type,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        fp16=settings.fp16,
        bf16=settings.bf16,
        use_cpu=settings.use_cpu,
        logging_steps=settings.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy=settings.save_strategy,
        save_steps=settings.save_steps,
        eval_strategy=settings.eval_strategy if evaluates else "no",
        eval_steps=settings.eval_steps if evaluates else None,
        multi_dataset_batch_sampler=MultiDatasetBatchSamplers(settings.turns),
        batch_sampler=BatchSamplers.NO_DUPLICATES if settings.filter_duplicate else BatchSamplers.BATCH_SAMPLER,
        # A small last batch would compare few texts. It is kept if it is the only one.
        dataloader_drop_last=processes > 1 or rows >= settings.batch_size,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=not settings.use_cpu,
        ddp_backend="gloo" if settings.use_cpu and processes > 1 else None,
        ddp_find_unused_parameters=_may_skip_layers(settings.loss(), label_free) if processes > 1 else None,
        report_to=["wandb"] if settings.wandb_project else [],
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        # Without torchrun the trainer would split batches, whose texts the loss compares, over all GPUs.
        arguments._n_gpu = 1
    return arguments
