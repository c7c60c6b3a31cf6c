"""Runs a training from its settings to the trained model on disk."""

import dataclasses
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer
from torch import distributed
from transformers import set_seed

from ese_deploy.backbones.contract import EseContract
from ese_deploy.errors import InputError, TrainingError
from ese_deploy.losses import AngleLoss, AngleObjective, EseCallback, EseLoss, blank_projections, restore_loss
from ese_deploy.losses.batch import check_parameters
from ese_deploy.losses.exits import model_parts
from ese_deploy.projections.projection import Projection
from ese_deploy.system.files import explain_os_error
from ese_deploy.system.progress import Progress
from ese_deploy.texts.dialect import dialect_of
from ese_deploy.training.callbacks import CompleteCheckpoints, SpearmanEachEpoch, StepLog
from ese_deploy.training.collate import Collator, column_prompts, kept_prompts
from ese_deploy.training.columns import Layout, parse_mapping
from ese_deploy.training.data import TrainingData, add_spans, load_data, load_formats
from ese_deploy.training.labels import check_labels, examples
from ese_deploy.training.model import LoadedModel, load_model, set_dropout, unfused_attention
from ese_deploy.training.plan import fit_lines, plan_lines
from ese_deploy.training.projections import (
    fit_initial,
    fit_length,
    fit_untrained,
    plan_projections,
    projection_texts,
    refit_trained,
)
from ese_deploy.training.run_folder import RunFolder, check_out, fixed_settings, is_done, last_checkpoint, open_run
from ese_deploy.training.save import finish_model, reads_states, write_checkpoint
from ese_deploy.training.settings import TrainingSettings
from ese_deploy.training.timing import with_log_lines
from ese_deploy.training.trainer import EseTrainer, choose_precision, text_columns, training_arguments, world_size

__all__ = ["train_model", "truncate_only"]

logger = logging.getLogger(__name__)

# PyTorch's fused attention is slow in the backward pass on a CPU. Unfused, memory grows as the square of the length.
_UNFUSED_LENGTH = 128


def train_model(settings: TrainingSettings, progress: Progress) -> None:
    """Train, and write the model into the output folder.

    Args:
        settings: with training data.
        progress: called after each step.

    Raises:
        InputError: a setting, the model or the data is wrong; raised before training starts.
        TrainingError: the loss or a weight is not finite, no step was made, or memory ran out.
    """
    if not settings.dry_run:
        _train(settings, progress, None)
        return
    # The trainer creates its folder.
    with tempfile.TemporaryDirectory() as folder:
        _train(settings, progress, Path(folder))


def _train(settings: TrainingSettings, progress: Progress, dry: Path | None) -> None:
    """Train; in a dry run, do everything before the first step, with a folder that is removed afterwards."""
    settings = choose_precision(settings)
    settings = dataclasses.replace(settings, workers=min(settings.workers, os.cpu_count() or 1))
    set_seed(settings.seed)
    data = _load_formats(settings)
    check_labels(settings, data)
    loaded = _load(settings)
    if reads_states(loaded.projections, loaded.depth):
        raise InputError(
            f"{settings.model} is truncated and its vectors come from a projection, which training would ignore. Train "
            "the whole model and truncate it afterwards."
        )
    layouts = [part.layout for part in data]
    collator = _collator(settings, loaded, layouts)
    texts = projection_texts(data, collator, settings.projection_texts, settings.seed)
    longest = fit_length(settings.max_length, loaded.max_seq_length)
    loss = _build_loss(settings, loaded.model, layouts, len(texts))
    if not settings.train_layers:
        _fit_only(settings, loaded, loss, texts, longest, progress, dry is not None)
        return
    run = _open_run(settings, loaded.model) if dry is None else RunFolder(dry, dry, None)
    dataset, rows = _together(data, settings.dataset_seed)
    arguments = training_arguments(settings, run.path, rows, label_free=any(layout.label_free for layout in layouts))
    if isinstance(loss, EseLoss) and loss.projections is not None and run.checkpoint is None and dry is None:
        fit_initial(loss, texts, longest, arguments, with_log_lines(progress))
    valid = None
    if settings.valid:
        allowed = [layout.columns for layout in layouts]
        source = (settings.valid, settings.valid_subset, settings.valid_split)
        valid = _load_data(settings, source, allowed, settings.label_free).dataset
    callbacks = [EseCallback(loss), CompleteCheckpoints(settings.save_total_limit, loss), StepLog(progress)]
    contract = _contract(loss, settings)
    if settings.scored:
        source = (settings.scored, settings.scored_subset, settings.scored_split)
        scored = _load_data(settings, source, [("text1", "text2", "label")], None)
        callbacks.append(
            SpearmanEachEpoch(
                scored, lambda folder: write_checkpoint(loaded.model, contract, folder, _projections(loss))
            )
        )
    trainer = EseTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=dataset,
        eval_dataset=valid,
        loss=loss,
        data_collator=collator,
        callbacks=callbacks,
    )
    if dry is not None:
        _log_lines(plan_lines(trainer, loss, settings, len(texts)))
        return
    precision = "fp16" if settings.fp16 else "bf16" if settings.bf16 else "fp32"
    place = f"{arguments.device.type} in {precision}"
    logger.info("Training on %s, processes: %d, seed: %d", place, world_size(), settings.seed)
    with unfused_attention(loaded.model, settings.use_cpu and settings.max_length <= _UNFUSED_LENGTH):
        _run(trainer, run, loss)
    check_parameters(loss)
    if trainer.is_world_process_zero():
        logged = with_log_lines(progress)
        projections = refit_trained(loss, loaded.model, texts, longest, arguments, settings.projection_refit, logged)
        finish_model(loaded, contract, settings, projections)
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _fit_only(
    settings: TrainingSettings,
    loaded: LoadedModel,
    loss: EseLoss | AngleLoss,
    texts: Sequence[str],
    longest: int,
    progress: Progress,
    dry: bool,
) -> None:
    """Fit projections and token features, and leave the layers as they are."""
    if not isinstance(loss, EseLoss) or loss.projections is None:
        raise InputError(
            "`train_layers=0` fits projections, and this run has none. Leave out `projections=0` or `apply_ese=0`, "
            "or add texts."
        )
    if world_size() > 1:
        raise InputError(f"`train_layers=0` runs in one process, got {world_size()}. Start it without torchrun.")
    if dry:
        _log_lines(fit_lines(loss, settings, len(texts)))
        return
    check_out(Path(settings.out).absolute(), resume=False)
    device = torch.device("cpu") if settings.use_cpu else torch.accelerator.current_accelerator() or torch.device("cpu")
    projections = fit_untrained(loss, texts, longest, device, settings.bf16, with_log_lines(progress))
    contract = _contract(loss, settings)
    assert contract is not None
    finish_model(loaded, msgspec.structs.replace(contract, aligned_exits=True), settings, projections)


def truncate_only(settings: TrainingSettings) -> None:
    """Write the first layers of a model into the output folder, without training.

    Raises:
        InputError: the settings name no depth, the model has fewer layers, or the output folder is not empty.
    """
    if not settings.truncate_to:
        raise InputError("There is no training data. Name it with `train`, or truncate the model with `truncate_to`.")
    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty and is never overwritten. Choose another output folder.")
    loaded = _load(settings)
    finish_model(loaded, loaded.contract, settings, loaded.projections)


def _load(settings: TrainingSettings) -> LoadedModel:
    loaded = load_model(settings.model, settings.pooling or None)
    if settings.truncate_to and settings.truncate_to > loaded.depth:
        raise InputError(
            f"The model cannot be truncated to depth {settings.truncate_to}. It has {loaded.depth} layers."
        )
    if settings.dropout is not None:
        set_dropout(loaded.model, settings.dropout)
    if settings.tokenizer_padding_side:
        loaded.model.tokenizer.padding_side = settings.tokenizer_padding_side
    if settings.gradient_checkpointing:
        backbone: Any = loaded.model[0].auto_model
        if not backbone.supports_gradient_checkpointing:
            raise InputError(f"{type(backbone).__name__} does not support `gradient_checkpointing`. Leave it out.")
        backbone.gradient_checkpointing_enable({"use_reentrant": settings.use_reentrant})
    return loaded


def _load_formats(settings: TrainingSettings) -> tuple[TrainingData, ...]:
    """Training data, by format."""
    data = load_formats(
        settings.train,
        subset=settings.train_subset or None,
        split=settings.train_split,
        mapping=parse_mapping(settings.column_rename_mapping),
        label_free=settings.label_free,
        dialect=dialect_of(settings.encoding or "utf-8", settings.separator),
    )
    if settings.spans:
        if not any(part.layout.format == "texts" for part in data):
            logger.warning("Spans are not used: there are no plain texts.")
        data = tuple(map(add_spans, data))
    for part in data:
        _log_lines((*part.description, *examples(part)))
    if len(data) > 1:
        logger.info("Batches of %d formats take turns, %s, with the same number of texts.", len(data), settings.turns)
    return data


def _load_data(
    settings: TrainingSettings,
    source: tuple[tuple[str, ...], str, str],
    allowed: Sequence[tuple[str, ...]],
    label_free: bool | None,
) -> TrainingData:
    """Data to evaluate on, from (names, subset, split), with one of the allowed tuples of columns."""
    names, subset, split = source
    mapping = parse_mapping(settings.column_rename_mapping)
    data = load_data(
        names,
        subset=subset or None,
        split=split,
        mapping=mapping,
        strict=False,
        label_free=label_free,
        dialect=dialect_of(settings.encoding or "utf-8", settings.separator),
    )
    _log_lines(data.description)
    if data.layout.columns not in allowed:
        wanted = " or ".join(", ".join(columns) for columns in allowed)
        raise InputError(f"{data.description[0]}. This data must have the columns {wanted}.")
    return data


def _log_lines(lines: Sequence[str]) -> None:
    for line in lines:
        logger.info("%s", line)


def _together(data: Sequence[TrainingData], seed: int | None) -> tuple[Dataset | DatasetDict, int]:
    """The trainer's data set, and the rows of the smallest part, counted in rows of the widest format."""
    parts = [part.dataset if seed is None else part.dataset.shuffle(seed=seed) for part in data]
    if len(parts) == 1:
        return parts[0], len(parts[0])
    widest = max(map(text_columns, parts))
    named = {part.layout.format: dataset for part, dataset in zip(data, parts, strict=True)}
    return DatasetDict(named), min(len(dataset) * text_columns(dataset) // widest for dataset in parts)


def _collator(settings: TrainingSettings, loaded: LoadedModel, layouts: Sequence[Layout]) -> Collator:
    """The collator. Prompts that a model's folder can store are added to the model."""
    texts = list(dict.fromkeys(text for layout in layouts for text in layout.texts))
    given = (settings.text_prompt, settings.query_prompt, settings.doc_prompt)
    prompts = column_prompts(texts, *(template or None for template in given))
    kept, default = kept_prompts(prompts)
    loaded.model.prompts.update(kept)
    loaded.model.default_prompt_name = default or loaded.model.default_prompt_name
    if any(not template.endswith("{text}") for template in prompts.values()):
        logger.warning(
            "A prompt with text after {text} cannot be stored in the model's folder. Add it to your texts yourself."
        )
    longest = min(settings.max_length, loaded.max_seq_length)
    return Collator(loaded.model, texts, prompts, longest, settings.seed)


def _build_loss(
    settings: TrainingSettings, model: SentenceTransformer, layouts: Sequence[Layout], texts: int
) -> EseLoss | AngleLoss:
    label_free = all(layout.label_free for layout in layouts)
    given = settings.objective()
    if label_free and given:
        logger.warning("Not used without labels: %s.", ", ".join(given))
    objective = None if label_free else AngleObjective(**given)
    if not settings.apply_ese:
        if objective is None:
            raise InputError("Training without ESE needs labels. Plain texts only train exits.")
        return AngleLoss(model, objective)
    chosen = _loss_settings(settings)
    logger.info("Variant of the loss: %s", chosen["variant"])
    if chosen["variant"] != "espresso" and not label_free and any(layout.label_free for layout in layouts):
        raise InputError(f"The variant '{chosen['variant']}' needs labels, but some files have none. Leave them out.")
    projections = plan_projections(chosen, model_parts(model).width, texts, settings.projection_texts)
    loss = EseLoss(model, objective, seed=settings.seed, **chosen)
    if projections:
        loss.set_projections(blank_projections(model, loss.exits, loss.token_features))
    return loss


# Settings that a preset or a published command may name together with another variant.
_UNUSED = {"espresso": ("compression_size", "kl_temperature"), "paper": ("kl_temperature",), "reference": ()}


def _loss_settings(settings: TrainingSettings) -> dict[str, Any]:
    chosen = {"variant": "espresso", **settings.loss()}
    unused = [name for name in _UNUSED.get(chosen["variant"], ()) if chosen.pop(name, None) is not None]
    if unused:
        logger.warning("The variant %s does not use %s.", chosen["variant"], ", ".join(unused))
    return chosen


def _open_run(settings: TrainingSettings, model: SentenceTransformer) -> RunFolder:
    """The folder of the run; only the main process creates it."""
    out = Path(settings.out).absolute()
    if int(os.environ.get("RANK", "0")) > 0:
        path = out.with_name(f"{out.name}.run")
        return RunFolder(out, path, last_checkpoint(path) if settings.resume else None)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    kept = 0 if settings.save_strategy == "no" else settings.save_total_limit
    run = open_run(out, {**fixed_settings(settings), "processes": world_size()}, settings.resume, size, kept)
    if settings.resume:
        found = f"Resuming from {run.checkpoint.name}." if run.checkpoint else "No checkpoint to resume from: starting."
        logger.info("%s", found)
    return run


def _run(trainer: EseTrainer, run: RunFolder, loss: EseLoss | AngleLoss) -> None:
    if run.checkpoint and is_done(run.checkpoint):
        # The run ended before the model was written. The trainer would make one step too many.
        trainer.load_weights(run.checkpoint)
        restore_loss(loss, run.checkpoint)
        return
    with explain_os_error(run.path), warnings.catch_warnings():
        # These libraries warn of each other's future releases.
        warnings.filterwarnings("ignore", category=FutureWarning, module="accelerate|transformers")
        try:
            trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "Memory ran out. Use a smaller `batch_size`, a smaller `max_length`, or `gradient_checkpointing`."
            ) from error
    if trainer.state.global_step == 0:
        raise TrainingError(
            "No step was made: no batch could be filled without repeating a text. Use a smaller `batch_size`, or "
            "`filter_duplicate=0`."
        )


def _contract(loss: EseLoss | AngleLoss, settings: TrainingSettings) -> EseContract | None:
    """The loss's contract with the settings of training; None if exits were not trained."""
    if isinstance(loss, AngleLoss):
        return None
    contract = loss.contract()
    used = {name: value for name, value in fixed_settings(settings).items() if name not in ("loss", "objective")}
    return msgspec.structs.replace(contract, settings={**contract.settings, "training": used})


def _projections(loss: EseLoss | AngleLoss) -> dict[int, Projection]:
    return loss.trained_projections() if isinstance(loss, EseLoss) else {}
