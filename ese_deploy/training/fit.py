"""From settings to a trained model on disk: the steps in their order."""

import argparse
import os
from collections.abc import Callable, Sequence
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
from ese_deploy.training.callbacks import Console, SpearmanEachEpoch, WholeCheckpoints
from ese_deploy.training.collate import Collator, column_prompts, kept_prompts
from ese_deploy.training.columns import Layout, parse_mapping
from ese_deploy.training.data import TrainingData, add_spans, load_data, load_formats
from ese_deploy.training.model import LoadedModel, attention_spelt_out, load_model, set_dropout
from ese_deploy.training.projections import (
    begin_projections,
    end_projections,
    plan_projections,
    projection_length,
    projection_texts,
)
from ese_deploy.training.run_folder import RunFolder, decisive, is_done, last_checkpoint, open_run
from ese_deploy.training.save import finish_model, reads_states, write_checkpoint
from ese_deploy.training.trainer import EseTrainer, choose_precision, text_columns, training_arguments, world_size

__all__ = ["train_model", "truncate_only"]

Tell = Callable[[str], None]

# PyTorch's fused attention is slow backwards on a CPU; spelt out it takes memory as the square of the length.
_SHORT = 128


def train_model(settings: argparse.Namespace, tell: Tell) -> None:
    """Train, and write the model into ``save_dir``.

    Args:
        settings: of :func:`ese_deploy.training.arguments.parse_arguments`.
        tell: takes lines for a person.

    Raises:
        InputError: before training begins, if something is not what it must be.
        TrainingError: the loss or a weight is not finite, no step was made, or memory ran out.
    """
    for line in (*settings.notes, *choose_precision(settings)):
        tell(line)
    settings.workers = min(settings.workers, os.cpu_count() or 1)
    set_seed(settings.seed)
    loaded = _load(settings, tell)
    if reads_states(loaded.projections, loaded.depth):
        raise InputError(
            f"{settings.model_name_or_path} is truncated, and its vectors are what a map makes of its blocks, which "
            "training would not see; train the whole model and truncate it afterwards"
        )
    data = _load_formats(settings, tell)
    layouts = [part.layout for part in data]
    collator = _collator(settings, loaded, layouts, tell)
    texts = projection_texts(data, collator, settings.maps_texts, settings.seed)
    longest = projection_length(settings.maxlen, loaded.max_seq_length)
    loss = _build_loss(settings, loaded.model, layouts, len(texts), tell)
    run = _open_run(settings, loaded.model, tell)
    dataset, rows = _together(data, settings.dataset_seed)
    arguments = training_arguments(settings, run.path, rows, label_free=any(layout.label_free for layout in layouts))
    if isinstance(loss, EseLoss) and loss.projections is not None and run.checkpoint is None:
        begin_projections(loss, texts, longest, arguments, tell)
    valid = _load_data(settings, "valid", tell, layouts).dataset if settings.valid_name_or_path else None
    callbacks = [EseCallback(loss), WholeCheckpoints(settings.save_total_limit, loss), Console()]
    contract = _contract(loss, settings)
    if settings.valid_name_or_path_for_callback:
        scored = _load_data(settings, "callback", tell)
        callbacks.append(
            SpearmanEachEpoch(scored, lambda folder: write_checkpoint(loaded.model, contract, folder, _maps(loss)))
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
    where = f"{arguments.device.type} in {_precision(settings)}"
    tell(f"training on {where}, processes: {world_size()}, seed: {settings.seed}")
    with attention_spelt_out(loaded.model, settings.use_cpu and settings.maxlen <= _SHORT):
        _run(trainer, run, loss)
    check_parameters(loss)
    if trainer.is_world_process_zero():
        projections = end_projections(loss, loaded.model, texts, longest, arguments, settings.maps_refit, tell)
        finish_model(loaded, contract, settings, tell, projections)
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def truncate_only(settings: argparse.Namespace, tell: Tell) -> None:
    """Write the first blocks of a model into ``save_dir``, without training.

    Raises:
        InputError: the model does not have so many, or ``save_dir`` holds something.
    """
    save_dir = Path(settings.save_dir)
    if save_dir.exists() and (not save_dir.is_dir() or any(save_dir.iterdir())):
        raise InputError(f"{save_dir} holds something already, which is never overwritten; choose another --save_dir")
    loaded = _load(settings, tell)
    finish_model(loaded, loaded.contract, settings, tell, loaded.projections)


def _load(settings: argparse.Namespace, tell: Tell) -> LoadedModel:
    loaded = load_model(settings.model_name_or_path, settings.pooling_strategy)
    for line in loaded.notes:
        tell(line)
    if settings.truncate_to and settings.truncate_to > loaded.depth:
        raise InputError(f"--truncate_to {settings.truncate_to} is not one of the model's depths, 1 to {loaded.depth}")
    if settings.dropout is not None:
        set_dropout(loaded.model, settings.dropout)
    if settings.tokenizer_padding_side:
        loaded.model.tokenizer.padding_side = settings.tokenizer_padding_side
    if settings.gradient_checkpointing:
        backbone: Any = loaded.model[0].auto_model
        if not backbone.supports_gradient_checkpointing:
            raise InputError(f"{type(backbone).__name__} cannot do with --gradient_checkpointing 1; leave it out")
        backbone.gradient_checkpointing_enable({"use_reentrant": settings.use_reentrant})
    return loaded


def _load_formats(settings: argparse.Namespace, tell: Tell) -> tuple[TrainingData, ...]:
    """Training data, by format."""
    data = load_formats(
        settings.train_name_or_path,
        subset=settings.train_subset_name,
        split=settings.train_split_name,
        mapping=parse_mapping(settings.column_rename_mapping),
        label_free=settings.label_free,
    )
    if settings.spans and not any(part.layout.format == "texts" for part in data):
        tell("not used: --spans, which takes plain texts apart, and there are none")
    data = tuple(map(add_spans, data)) if settings.spans else data
    for line in (line for part in data for line in part.description):
        tell(line)
    if len(data) > 1:
        tell(f"batches of {len(data)} formats take turns, {settings.turns}, with as many texts in each")
    return data


def _together(data: Sequence[TrainingData], seed: int | None) -> tuple[Dataset | DatasetDict, int]:
    """What the trainer takes, and the rows of the smallest part, counted in rows of the widest format."""
    parts = [part.dataset if seed is None else part.dataset.shuffle(seed=seed) for part in data]
    if len(parts) == 1:
        return parts[0], len(parts[0])
    widest = max(map(text_columns, parts))
    named = {part.layout.format: dataset for part, dataset in zip(data, parts, strict=True)}
    return DatasetDict(named), min(len(dataset) * text_columns(dataset) // widest for dataset in parts)


def _load_data(settings: argparse.Namespace, part: str, tell: Tell, like: Sequence[Layout] = ()) -> TrainingData:
    """Data of a part of the command line: ``valid``, or ``callback``, which needs scored pairs."""
    prefix, suffix = ("valid", "_for_callback") if part == "callback" else (part, "")
    data = load_data(
        getattr(settings, f"{prefix}_name_or_path{suffix}"),
        subset=getattr(settings, f"{prefix}_subset_name{suffix}"),
        split=getattr(settings, f"{prefix}_split_name{suffix}"),
        mapping=parse_mapping(settings.column_rename_mapping),
        strict=False,
        label_free=None if part == "callback" else settings.label_free,
    )
    for line in data.description:
        tell(line)
    allowed = [layout.columns for layout in like] or [("text1", "text2", "label")]
    if data.layout.columns not in allowed:
        wanted = " or ".join(", ".join(columns) for columns in allowed)
        raise InputError(f"{data.description[0]}; {part} data must have {wanted}")
    return data


def _collator(settings: argparse.Namespace, loaded: LoadedModel, layouts: Sequence[Layout], tell: Tell) -> Collator:
    """The collator; prompts that the model's folder can keep are put there."""
    texts = list(dict.fromkeys(text for layout in layouts for text in layout.texts))
    prompts = column_prompts(texts, settings.text_prompt, settings.query_prompt, settings.doc_prompt)
    kept, default = kept_prompts(prompts)
    loaded.model.prompts.update(kept)
    loaded.model.default_prompt_name = default or loaded.model.default_prompt_name
    if any(not template.endswith("{text}") for template in prompts.values()):
        tell("a prompt that goes on after {text} cannot be kept in the model's folder; put it around texts yourself")
    longest = min(settings.maxlen, loaded.max_seq_length)
    return Collator(loaded.model, texts, prompts, longest, settings.seed)


def _build_loss(
    settings: argparse.Namespace, model: SentenceTransformer, layouts: Sequence[Layout], texts: int, tell: Tell
) -> EseLoss | AngleLoss:
    label_free = all(layout.label_free for layout in layouts)
    variant = settings.loss.get("variant", "espresso") if settings.apply_ese else "--apply_ese 0"
    if variant != "espresso" and not label_free and any(layout.label_free for layout in layouts):
        raise InputError(f"{variant} learns from labels alone, and some files have none; leave them out")
    if label_free and settings.objective:
        tell(f"not used without labels: {', '.join(f'--{name}' for name in settings.objective)}")
    if not settings.apply_ese:
        if label_free:
            raise InputError("--apply_ese 0 trains the full model on labels, and there are none: exits learn without")
        return AngleLoss(model, AngleObjective(**settings.objective))
    chosen = dict(settings.loss)
    if "variant" not in chosen:
        tell("variant espresso, this project's; --ese_variant reference or paper are the published losses")
    if chosen.get("variant", "espresso") == "espresso":
        unused = [name for name in ("compression_size", "kl_temperature") if chosen.pop(name, None) is not None]
        if unused:
            tell(f"not used by espresso, which trains several prefixes (--dims): {', '.join(unused)}")
    if variant == "paper" and chosen.pop("kl_temperature", None) is not None:
        tell("not used by paper, whose compression has no temperature: kl_temperature")
    objective = None if label_free else AngleObjective(**settings.objective)
    projections = plan_projections(chosen, model_parts(model).width, texts, settings.maps_texts, tell)
    loss = EseLoss(model, objective, seed=settings.seed, **chosen)
    if projections:
        loss.set_maps(blank_projections(model, loss.exits))
    return loss


def _open_run(settings: argparse.Namespace, model: SentenceTransformer, tell: Tell) -> RunFolder:
    """The folder of the run, made by the main process alone."""
    save_dir = Path(settings.save_dir).absolute()
    if int(os.environ.get("RANK", "0")) > 0:
        path = save_dir.with_name(f"{save_dir.name}.run")
        return RunFolder(save_dir, path, last_checkpoint(path) if settings.resume else None)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    kept = 0 if settings.save_strategy == "no" else settings.save_total_limit
    run = open_run(save_dir, {**vars(settings), "processes": world_size()}, settings.resume, size, kept)
    if settings.resume:
        tell(f"going on after {run.checkpoint.name}" if run.checkpoint else "no checkpoint to go on after: beginning")
    return run


def _run(trainer: EseTrainer, run: RunFolder, loss: EseLoss | AngleLoss) -> None:
    if run.checkpoint and is_done(run.checkpoint):
        # Killed before the model was written; the trainer would go a step too far.
        trainer.load_weights(run.checkpoint)
        restore_loss(loss, run.checkpoint)
        return
    with explain_os_error(run.path):
        try:
            trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "memory ran out; lower --batch_size, shorten --maxlen, or add --gradient_checkpointing 1"
            ) from error
    if trainer.state.global_step == 0:
        raise TrainingError(
            "no step was made: no batch could be filled without the same text twice; lower --batch_size, or give "
            "--filter_duplicate 0"
        )


def _contract(loss: EseLoss | AngleLoss, settings: argparse.Namespace) -> EseContract | None:
    """The loss's contract with the settings of training; none where exits were not trained."""
    if isinstance(loss, AngleLoss):
        return None
    contract = loss.contract()
    used = {name: value for name, value in decisive(vars(settings)).items() if name not in ("loss", "objective")}
    return msgspec.structs.replace(contract, settings={**contract.settings, "training": used})


def _maps(loss: EseLoss | AngleLoss) -> dict[int, Projection]:
    return loss.fitted_maps() if isinstance(loss, EseLoss) else {}


def _precision(settings: argparse.Namespace) -> str:
    return "fp16" if settings.fp16 else "bf16" if settings.bf16 else "fp32"
