"""Reads the settings of a training run from options of the command line, Python keywords and a preset."""

import logging
from collections.abc import Mapping
from typing import Any

from ese_deploy.errors import InputError
from ese_deploy.system.files import expand
from ese_deploy.training.presets import (
    OLD_NAMES,
    check_loss_settings,
    check_names,
    parse_loss_setting,
    read_preset,
)
from ese_deploy.training.settings import LOSS_OPTIONS, OPTIONS, Option, TrainingSettings

__all__ = ["REFUSED", "build_settings"]

logger = logging.getLogger(__name__)

_DEFAULT_SEED = 42

_NOT_LLM = "Encoders and decoders are trained as they are. Name the model with `model`."
_LORA = "All weights are trained. An adapter on layers that several exits share cannot be exported."
_HUB = "Training uploads nothing. Run 'hf upload REPO FOLDER' afterwards."
_REMOVED = "AnglE 0.6 removed this option."

REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "pretrained_model_path": ((), "Name the checkpoint to continue from with `model`."),
    "pretrained_lora_path": ((), _LORA),
    "load_mlm_model": (("0",), "No loss here uses a language-modelling head."),
    "tokenizer_name_or_path": ((), "A checkpoint has its own tokenizer. Save another one into the model's folder."),
    "tokenizer_padding": (("longest",), "Padding to the full length takes more time and changes no vector."),
    "streaming": (("0",), "Batches without duplicates and exact resuming need all rows in memory."),
    "apply_lora": (("0",), _LORA),
    "lora_r": ((), _LORA),
    "lora_alpha": ((), _LORA),
    "lora_dropout": ((), _LORA),
    "lora_target_modules": ((), _LORA),
    "load_kbit": ((), "Quantized weights cannot be trained without adapters. Export quantizes to int8."),
    "torch_dtype": (("float32",), "Weights stay in float32. Use `bf16=1` or `fp16=1` for mixed precision."),
    "push_to_hub": (("0",), _HUB),
    "hub_model_id": ((), _HUB),
    "hub_private_repo": ((), _HUB),
    "is_llm": (("0",), _NOT_LLM),
    "apply_billm": (("0",), _NOT_LLM),
    "billm_model_class": ((), _NOT_LLM),
    "teacher_name_or_path": ((), "The variant espresso learns from the model's own full depth."),
    "teacher_pooling_strategy": ((), "The variant espresso learns from the model's own full depth."),
    "coword_random_mask_rate": (("0", "0.0"), _REMOVED),
    "fix_data": ((), _REMOVED),
    "do_eval": ((), "Evaluation runs whenever `valid` or `scored` is given."),
}
"""Unsupported options of AnglE's trainer: the values that turn them off, and why every other value is an error."""


def build_settings(given: Mapping[str, Any]) -> TrainingSettings:
    """Merge options with those of the preset that they name.

    Args:
        given: values by option name: text, or Python values.

    Raises:
        InputError: an option is unknown, unsupported, missing or has a bad value, or the preset does.
    """
    own = _read(given, "")
    chosen: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    if own.get("preset"):
        preset = read_preset(own["preset"])
        logger.info("Preset %s: %s", own["preset"], preset.description)
        chosen = _read(preset.options, f"{own['preset']}: ")
        loss = preset.loss
    if "epochs" in own:
        # The preset's step limit would end the run earlier.
        chosen.pop("max_steps", None)
    variant = own.get("variant") or own.get("loss_setting", {}).get("variant")
    if variant not in (None, loss.get("variant", variant)):
        logger.warning("The variant %s does not use the preset's settings of the loss.", variant)
        loss = {}
    chosen |= own
    chosen["loss_setting"] = {**loss, **chosen.get("loss_setting", {})}
    for name in ("model", "out"):
        if not chosen.get(name):
            raise InputError(f"`{name}` is missing.")
    if chosen.get("fp16") and chosen.get("bf16"):
        raise InputError("`fp16` and `bf16` exclude each other. Choose one.")
    if chosen.get("seed") == -1:
        chosen["seed"] = _DEFAULT_SEED
    unused = [name for name in (*LOSS_OPTIONS, "loss_setting") if name in own]
    if unused and not chosen.get("apply_ese", True):
        logger.warning("Not used without ESE: %s.", ", ".join(unused))
    return TrainingSettings(**{**chosen, "out": str(expand(chosen["out"]))})


def _read(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Typed values by option name; errors begin with ``where``."""
    named = {OLD_NAMES.get(name, name): value for name, value in given.items() if value is not None}
    check_names([name for name in named if name not in REFUSED], OPTIONS, "Training", "an option")
    values = {}
    for name, value in named.items():
        try:
            if name in REFUSED:
                allowed, reason = REFUSED[name]
                if _as_text(value) not in allowed:
                    raise InputError(f"'{_as_text(value)}' is not supported. {reason}")
            else:
                values[name] = _value(OPTIONS[name], value)
        except ValueError as error:
            raise InputError(f"{where}`{name}`: {error}") from None
    return values


def _value(option: Option, value: Any) -> Any:
    if option.name == "loss_setting":
        settings = dict(value) if isinstance(value, Mapping) else dict(parse_loss_setting(item) for item in value)
        check_loss_settings(settings, "The loss")
        return settings
    if option.repeated:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(part for item in items for part in str(item).split(",") if part)
    return option.read(_as_text(value))


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(map(str, value)) if isinstance(value, list | tuple | range) else str(value)
