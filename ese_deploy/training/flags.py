"""The flags of ``training.train``: names, kinds, defaults; and those of the reference that are refused, with why."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["ALIASES", "FLAGS", "REFUSED", "SILENT", "Flag"]


Number = TypeVar("Number", int, float)

# NumPy takes no greater one.
_SEEDS = 2**32
_LEAST_TOKENS = 8


@dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes:
        name: without its dashes.
        kind: reads the value.
        default: where neither the command nor a recipe names it.
        help: one line.
        repeated: may be given several times.
        choices: the values allowed, where there are few.
    """

    name: str
    kind: Callable[[str], Any]
    default: Any
    help: str
    repeated: bool = False
    choices: tuple[str, ...] | None = None


def switch(text: str) -> bool:
    """Read 0 or 1."""
    if text.lower() in ("0", "false", "no", "off"):
        return False
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    raise argparse.ArgumentTypeError(f"'{text}' is neither 0 nor 1")


def natural(text: str) -> int:
    """Read a whole number from 1."""
    return _number(text, int, 1)


def count(text: str) -> int:
    """Read a whole number from 0."""
    return _number(text, int, 0)


def positive(text: str) -> float:
    """Read a number from 0."""
    return _number(text, float, 0)


def share(text: str) -> float:
    """Read a number from 0 to 1, 1 left out."""
    value = _number(text, float, 0)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not below 1")
    return value


def part(text: str) -> float:
    """Read a number from 0 to 1."""
    value = _number(text, float, 0)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return value


def length(text: str) -> int:
    """Read a number of tokens: special tokens take two of them."""
    return _number(text, int, _LEAST_TOKENS)


def above_0(text: str) -> float:
    """Read a number above 0."""
    value = _number(text, float, 0)
    if not value:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def limit(text: str) -> int:
    """Read a whole number from 1, or -1 for none."""
    return -1 if text.strip() == "-1" else natural(text)


def seed(text: str) -> int:
    """Read a seed of everything that draws, or -1."""
    if text.strip() == "-1":
        return -1
    value = count(text)
    if value >= _SEEDS:
        raise argparse.ArgumentTypeError(f"{text} is not below {_SEEDS}")
    return value


def _number(text: str, kind: type[Number], least: int) -> Number:
    try:
        number = kind(text)
    except ValueError:
        number = kind(-1)
    if not least <= number < float("inf"):
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"'{text}' is not {what} from {least}")
    return number


_STRATEGIES = ("steps", "epoch", "no")
# Those of transformers that need no settings of their own.
_SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)

FLAGS = (
    Flag("recipe", str, None, "name of a recipe in training/recipes, or a TOML file; flags override it"),
    Flag("resume", switch, False, "go on after the last checkpoint of this save_dir"),
    # model
    Flag("model_name_or_path", str, None, "a folder, a hub id or package:NAME"),
    Flag("pooling_strategy", str, None, "cls, mean (avg), max, lasttoken (last) ...; default: the checkpoint's own"),
    Flag("maxlen", length, 512, "longest text in tokens while training; the model's own limit stays as it is"),
    Flag("dropout", share, None, "dropout while training, 0 to below 1; default: the model's own"),
    Flag("tokenizer_padding_side", str, None, "left or right; default: the tokenizer's own", choices=("left", "right")),
    Flag("gradient_checkpointing", switch, False, "less memory for more time"),
    Flag("use_reentrant", switch, False, "the older kind of gradient checkpointing"),
    # data
    Flag("train_name_or_path", str, None, "files, by commas or repeated; a saved folder; a hub name", True),
    Flag(
        "turns",
        str,
        "proportional",
        "how batches of files of several formats take turns: by their number, or one of each",
        choices=("proportional", "round_robin"),
    ),
    Flag("spans", switch, False, "plain texts also as their sentences, halves and thirds"),
    Flag("train_subset_name", str, None, "configuration of a data set of the hub"),
    Flag("train_split_name", str, "train", "its split"),
    Flag("valid_name_or_path", str, None, "data of the same format for the loss on unseen data", True),
    Flag("valid_subset_name", str, None, "its configuration"),
    Flag("valid_split_name", str, "train", "its split"),
    Flag("valid_name_or_path_for_callback", str, None, "scored pairs (format A): Spearman after each epoch", True),
    Flag("valid_subset_name_for_callback", str, None, "their configuration"),
    Flag("valid_split_name_for_callback", str, "train", "their split"),
    Flag("column_rename_mapping", str, None, "'old:new;old2:new2'"),
    Flag("text_prompt", str, None, "template with {text}, for format A and plain texts"),
    Flag("query_prompt", str, None, "template with {text} for the query"),
    Flag("doc_prompt", str, None, "template with {text} for positive and negative"),
    Flag("filter_duplicate", switch, True, "no text twice in a batch"),
    Flag("dataset_seed", count, None, "shuffle the data once with this seed before training"),
    # loss
    Flag("apply_ese", switch, True, "train the exits; 0: the objective on the full model alone"),
    Flag("ese_variant", str, None, "espresso (default), reference, paper", choices=("espresso", "reference", "paper")),
    Flag("label_free", switch, None, "learn from texts alone; default: only where there are no labels"),
    Flag("exits", str, None, "depths to train, such as 1-6 or 2,4; espresso"),
    Flag("dims", str, None, "prefixes to train, such as 32,64,128; espresso"),
    Flag("maps", switch, None, "train exits through matrices, in the full model's space (1); espresso"),
    Flag(
        "maps_texts",
        natural,
        12_288,
        "most texts of the training data for --maps_refit; training begins with maps of at most 12,288 of them",
    ),
    Flag("maps_refit", part, 0.0, "share of maps fitted again, after training, in those that are written"),
    Flag("align_w", positive, None, "weight of aligning exits, so that queries of one search another's index (0)"),
    Flag("ese_compression_size", natural, None, "the prefix that the published variants train"),
    Flag("ese_kl_temperature", positive, None, "of the published compression; 0 leaves its KL out"),
    Flag("loss_setting", str, None, "name=value of any other setting of EseLoss; may be repeated", True),
    Flag(
        "loss_version",
        str,
        None,
        "how format C is put together; paper: as before 2025",
        choices=("0.6", "paper"),
    ),
    Flag("cosine_w", positive, None, "weight of the CoSENT loss (0)"),
    Flag("ibn_w", positive, None, "weight of in-batch negatives (1)"),
    Flag("cln_w", positive, None, "weight of in-batch negatives with hard negatives (1)"),
    Flag("angle_w", positive, None, "weight of the angle loss (0.02)"),
    Flag("cosine_tau", positive, None, "factor of cosines in CoSENT (20)"),
    Flag("ibn_tau", positive, None, "factor of cosines among in-batch negatives (20)"),
    Flag("angle_tau", positive, None, "factor of the angle's scores (20)"),
    Flag("mask_false_negatives", switch, None, "leave out negatives that are the query's own text or positive (1)"),
    # optimisation
    Flag("epochs", above_0, 10.0, "passes over the data"),
    Flag("max_steps", limit, -1, "stop after so many steps; -1: after the epochs"),
    Flag("batch_size", natural, 32, "rows a batch on each process"),
    Flag("gradient_accumulation_steps", natural, 1, "batches a step"),
    Flag("learning_rate", positive, 1e-5, "of AdamW"),
    Flag("warmup_steps", count, 100, "steps until the learning rate is full"),
    Flag("lr_scheduler_type", str, "linear", "how the learning rate falls: transformers' names", choices=_SCHEDULES),
    Flag("weight_decay", positive, 0.0, "of AdamW"),
    Flag("max_grad_norm", positive, 1.0, "longer gradients of the model, without its maps, are scaled to this norm"),
    Flag("seed", seed, 42, "of everything that is drawn; -1: the default"),
    Flag("fp16", switch, False, "mixed precision on a GPU"),
    Flag("bf16", switch, False, "mixed precision on a GPU or CPU that has it"),
    Flag("use_cpu", switch, False, "train on the CPU even where there is a GPU"),
    Flag("workers", count, 2, "processes that prepare batches"),
    # output
    Flag("save_dir", str, None, "the trained model; its checkpoints go beside it, into SAVE_DIR.run"),
    Flag("truncate_to", natural, None, "what is written has the first so many blocks alone"),
    Flag("logging_steps", natural, 100, "steps from line to line"),
    Flag("save_strategy", str, "steps", "when to write checkpoints", choices=_STRATEGIES),
    Flag("save_steps", natural, 100, "steps from checkpoint to checkpoint"),
    Flag("save_total_limit", natural, 1, "checkpoints kept"),
    Flag("eval_strategy", str, "steps", "when to evaluate, if there is valid data", choices=_STRATEGIES),
    Flag("eval_steps", natural, 1000, "steps from evaluation to evaluation"),
    Flag("wandb_project", str, None, "also log to Weights & Biases, which sends the figures to its servers"),
    Flag("wandb_log_model", str, None, "what it uploads: checkpoint or end", choices=("checkpoint", "end", "false")),
)

_NOT_LLM = "ese-deploy trains encoders and decoders alike as they are; give the model by --model_name_or_path"
_LORA = "all weights are trained; an adapter on blocks that exits share would have to be merged before export"
_HUB = "training uploads nothing; afterwards: hf upload REPO SAVE_DIR"

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "pretrained_model_path": ((), "name the model to continue from as --model_name_or_path"),
    "pretrained_lora_path": ((), _LORA),
    "load_mlm_model": (("0",), "no loss here uses a language-modelling head; AnglE 0.6 does not reach its own either"),
    "tokenizer_name_or_path": ((), "a checkpoint brings its tokenizer; save the other one into the model's folder"),
    "tokenizer_padding": (("longest",), "padding to the full length costs time and changes no vector"),
    "streaming": (("0",), "batches without duplicates and a resume to the same weights need the rows at hand"),
    "apply_lora": (("0",), _LORA),
    "load_kbit": ((), "quantised weights cannot be trained without adapters; int8 is made at export"),
    "torch_dtype": (("float32",), "weights are kept in float32; for mixed precision use --bf16 1 or --fp16 1"),
    "push_to_hub": (("0",), _HUB),
    "is_llm": (("0",), _NOT_LLM),
    "apply_billm": (("0",), _NOT_LLM),
    "billm_model_class": ((), _NOT_LLM),
    "teacher_name_or_path": (
        (),
        "the reference gives such a teacher no gradient under ESE; espresso learns from the model's own full depth",
    ),
    "coword_random_mask_rate": (("0", "0.0"), "AnglE 0.6 removed it"),
    "fix_data": (("0", "1"), "AnglE 0.6 removed it"),
}
"""Flags of the reference by name: the values that ask for nothing, and why any other is refused."""

SILENT = (
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "teacher_pooling_strategy",
    "hub_private_repo",
    "hub_model_id",
    "do_eval",
)
"""Flags that mean nothing without a refused one, or nothing any more."""

ALIASES = {"prompt_template": "text_prompt", "w1": "cosine_w", "w2": "ibn_w", "w3": "angle_w"}
"""Names that older commands have."""
