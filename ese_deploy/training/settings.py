"""The settings of a training run: one field an option, with its help line, default and allowed values."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ese_deploy.projections.tokens import TOKEN_FEATURES
from ese_deploy.target import parse_range
from ese_deploy.texts.dialect import SEPARATORS

__all__ = ["LOSS_OPTIONS", "OPTIONS", "Option", "TrainingSettings"]

# NumPy accepts no larger seed.
_SEEDS = 2**32
# Special tokens take two of them.
_MIN_TOKENS = 8
_MAX_PROJECTION_TEXTS = 12_288
_LOSS, _OBJECTIVE = "loss", "objective on labelled data"
# By the name of the reader; other readers are named so.
_METAVARS = {"str": "TEXT", "switch": "0|1", "ranges": "NUMBERS", "features": "NAMES"}
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

Read = Callable[[str], Any]
"""Reads the text of a value; raises ValueError with a full sentence."""


@dataclass(frozen=True)
class Option:
    """How one setting is written and read.

    Attributes:
        name: the field's name; the command line writes it with dashes.
        group: heading in the help text.
        help: one full sentence.
        default: used if neither the command nor the preset names the setting.
        read: reads the text of a value.
        repeated: whether the option may be given several times.
        old: earlier names, which are accepted too.
    """

    name: str
    group: str
    help: str
    default: Any
    read: Read
    repeated: bool
    old: tuple[str, ...]

    @property
    def metavar(self) -> str:
        """The kind of value, for the help text."""
        return _METAVARS.get(self.read.__name__, self.read.__name__)


def switch(text: str) -> bool:
    """Read 0 or 1."""
    if text.lower() in ("0", "false", "no", "off"):
        return False
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    raise ValueError(f"'{text}' is not 0 or 1.")


def whole(least: int, below: float = math.inf, none: str = "") -> Read:
    """A reader of integers in a range; ``none`` is a text that stands for -1."""

    def read(text: str) -> int:
        if none and text.strip() == none:
            return -1
        if not text.strip().isdecimal() or not least <= int(text) < below:
            raise ValueError(f"'{text}' is not a whole number of at least {least}{_below(below)}.")
        return int(text)

    read.__name__ = "NUMBER"
    return read


def number(above: float = -math.inf, below: float = math.inf, most: float = math.inf) -> Read:
    """A reader of numbers of at least 0, or in a narrower range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (0 <= value < math.inf and above < value < below and value <= most):
            least = "above 0" if above >= 0 else "of at least 0"
            limit = f" and at most {most:g}" if most < math.inf else _below(below)
            raise ValueError(f"'{text}' is not a number {least}{limit}.")
        return value

    read.__name__ = "NUMBER"
    return read


def choice(*allowed: str) -> Read:
    """A reader of one of several words."""

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"Unknown value '{text}'. Choose one of: {', '.join(allowed)}.")
        return text

    read.__name__ = "|".join(allowed) if len(allowed) < 5 else "NAME"
    return read


def ranges(text: str) -> tuple[int, ...]:
    """Read numbers and ranges such as ``1-3,6``."""
    return tuple(parse_range(text, "The list"))


def features(text: str) -> tuple[str, ...]:
    """Read names of token features, separated by commas, or ``none``."""
    names = tuple(name.strip() for name in text.split(",") if name.strip() and name.strip() != "none")
    unknown = [name for name in names if name not in TOKEN_FEATURES]
    if unknown:
        raise ValueError(f"Unknown value '{unknown[0]}'. Choose some of {', '.join(TOKEN_FEATURES)}, or none.")
    return names


def _below(limit: float) -> str:
    return f" and below {limit:g}" if limit < 100 else f" and below {int(limit)}" if limit < math.inf else ""


def _group(name: str) -> Callable[..., Any]:
    """The declaration of an option under one heading of the help text."""

    def option(help: str, default: Any = None, read: Read = str, old: str = "", repeated: bool = False) -> Any:
        metadata = {"group": name, "help": help, "read": read, "old": tuple(old.split()), "repeated": repeated}
        return field(default=default, metadata=metadata)

    return option


_run = _group("run")
_model = _group("model")
_data = _group("data")
_loss = _group(_LOSS)
_objective = _group(_OBJECTIVE)
_steps = _group("optimisation")
_output = _group("output")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """All settings of a training run; ``ese-deploy train --help`` shows the help line of each field."""

    preset: str = _run("Start from a named preset or a TOML file; other options override it.", "", old="recipe")
    resume: bool = _run("Continue after the last complete checkpoint of this output folder.", False, switch)
    dry_run: bool = _run(
        "Check settings, model and data, print what training would see and how many steps it takes, and write nothing.",
        False,
        switch,
    )

    model: str = _model("The checkpoint to train: a folder, a hub id or package:NAME.", "", old="model_name_or_path")
    pooling: str = _model(
        "Pooling, such as cls, mean or lasttoken; the default is the checkpoint's own.", "", old="pooling_strategy"
    )
    max_length: int = _model(
        "Longest text in tokens during training; the model's own limit stays.", 512, whole(_MIN_TOKENS), "maxlen"
    )
    dropout: float | None = _model("Dropout during training; the default is the model's own.", None, number(below=1))
    tokenizer_padding_side: str = _model(
        "Side of the padding: left or right; the default is the tokenizer's own.", "", choice("left", "right")
    )
    gradient_checkpointing: bool = _model("Save memory at the cost of time.", False, switch)
    use_reentrant: bool = _model("Use the reentrant variant of gradient checkpointing.", False, switch)

    train: tuple[str, ...] = _data(
        "Training data: files (repeat or separate by commas), a folder saved by datasets, or a hub data set.",
        (),
        old="train_name_or_path",
        repeated=True,
    )
    turns: str = _data(
        "How files of several formats take turns: proportional to their size, or round_robin, one batch of each.",
        "proportional",
        choice("proportional", "round_robin"),
    )
    spans: bool = _data("Also train on the sentences, halves and thirds of plain texts.", False, switch)
    train_subset: str = _data("Configuration of a hub data set.", "", old="train_subset_name")
    train_split: str = _data("Split of the training data.", "train", old="train_split_name")
    valid: tuple[str, ...] = _data(
        "Held-out data in the format of the training data, for the evaluation loss.",
        (),
        old="valid_name_or_path",
        repeated=True,
    )
    valid_subset: str = _data("Configuration of the held-out data.", "", old="valid_subset_name")
    valid_split: str = _data("Split of the held-out data.", "train", old="valid_split_name")
    scored: tuple[str, ...] = _data(
        "Scored pairs (format A): report Spearman's correlation after each epoch and keep the best model.",
        (),
        old="valid_name_or_path_for_callback",
        repeated=True,
    )
    scored_subset: str = _data("Configuration of the scored pairs.", "", old="valid_subset_name_for_callback")
    scored_split: str = _data("Split of the scored pairs.", "train", old="valid_split_name_for_callback")
    column_rename_mapping: str = _data("Rename columns: 'old:new;old2:new2'.", "")
    encoding: str = _data("Decode data files with this encoding, for example cp1252. Without it: utf-8.", "")
    separator: str | None = _data(
        f"Split the columns of .csv files at this character: {', '.join(SEPARATORS)}. Without it: comma.", None
    )
    text_prompt: str = _data("Template with {text}, for format A and plain texts.", "", old="prompt_template")
    query_prompt: str = _data("Template with {text}, for queries.", "")
    doc_prompt: str = _data("Template with {text}, for positives and negatives.", "")
    filter_duplicate: bool = _data("Keep equal texts out of one batch.", True, switch)
    dataset_seed: int | None = _data("Shuffle the data once with this seed before training.", None, whole(0))

    apply_ese: bool = _loss("Train the exits; 0 trains only the full model, on labelled data.", True, switch)
    variant: str = _loss(
        "The loss: espresso (this project's), reference (the authors' code) or paper (the paper's equations).",
        "",
        choice("espresso", "reference", "paper"),
        "ese_variant",
    )
    label_free: bool | None = _loss(
        "Ignore labels and learn from texts; the default is 1 only for data without labels.", None, switch
    )
    exits: tuple[int, ...] | None = _loss("Depths to train, such as 1-6 or 2,4 (espresso).", None, ranges)
    dims: tuple[int, ...] | None = _loss("Prefixes to train, such as 32,64,128 (espresso).", None, ranges)
    projections: bool | None = _loss(
        "Train a projection for each exit; the default is 1 if there are enough texts (espresso).", None, switch, "maps"
    )
    token_features: tuple[str, ...] | None = _loss(
        "What projections read too: rarity, table, both (rarity,table) or none (none); table adds depth 0 (espresso).",
        None,
        features,
    )
    train_layers: bool = _loss(
        "Train the layers; 0 fits projections and token features on the texts and leaves the layers as they are.",
        True,
        switch,
    )
    projection_texts: int = _loss(
        "Number of texts to fit projections on after training; without a token table at most "
        f"{_MAX_PROJECTION_TEXTS:,} of them before it.",
        _MAX_PROJECTION_TEXTS,
        whole(1),
        "maps_texts",
    )
    projection_refit: float = _loss(
        "Weight of projections that are fitted again after training, 0 to 1.", 0.0, number(most=1), "maps_refit"
    )
    align_w: float | None = _loss("Weight of keeping the exits in one embedding space (0).", None, number())
    compression_size: int | None = _loss(
        "The one prefix that the published variants train (128).", None, whole(1), "ese_compression_size"
    )
    kl_temperature: float | None = _loss(
        "Temperature of the published compression's KL divergence (1); 0 removes it.",
        None,
        number(),
        "ese_kl_temperature",
    )
    loss_setting: Mapping[str, Any] | None = _loss(
        "Any other setting of the loss, as name=value; may be repeated.", None, repeated=True
    )

    loss_version: str | None = _objective(
        "Composition of the triplet loss: 0.6, or paper, as before 2025.", None, choice("0.6", "paper")
    )
    cosine_w: float | None = _objective("Weight of the CoSENT loss (0).", None, number(), "w1")
    ibn_w: float | None = _objective("Weight of in-batch negatives (1).", None, number(), "w2")
    cln_w: float | None = _objective("Weight of in-batch negatives with hard negatives (1).", None, number())
    angle_w: float | None = _objective("Weight of the angle loss (0.02).", None, number(), "w3")
    cosine_tau: float | None = _objective("Factor of the cosines in the CoSENT loss (20).", None, number())
    ibn_tau: float | None = _objective("Factor of the cosines of in-batch negatives (20).", None, number())
    angle_tau: float | None = _objective("Factor of the scores of the angle loss (20).", None, number())
    mask_false_negatives: bool | None = _objective(
        "Exclude in-batch negatives that equal the query or its positive (1).", None, switch
    )

    epochs: float = _steps("Passes over the data.", 10.0, number(above=0))
    max_steps: int = _steps("Stop after this many steps; -1 trains for --epochs.", -1, whole(1, none="-1"))
    batch_size: int = _steps("Rows in a batch, on each process.", 32, whole(1))
    gradient_accumulation_steps: int = _steps("Batches in a step.", 1, whole(1))
    learning_rate: float = _steps("Learning rate of AdamW.", 1e-5, number())
    warmup_steps: int = _steps("Steps until the full learning rate.", 100, whole(0))
    lr_scheduler_type: str = _steps(f"Learning-rate schedule: {', '.join(_SCHEDULES)}.", "linear", choice(*_SCHEDULES))
    weight_decay: float = _steps("Weight decay of AdamW.", 0.0, number())
    max_grad_norm: float = _steps(
        "Clip the gradient of the model, without its projections; 0 turns it off.", 1.0, number()
    )
    seed: int = _steps("Seed of everything that is drawn; -1 means 42.", 42, whole(0, _SEEDS, none="-1"))
    fp16: bool = _steps("Train in mixed fp16 precision on a GPU.", False, switch)
    bf16: bool = _steps("Train in mixed bf16 precision on a GPU or CPU that supports it.", False, switch)
    use_cpu: bool = _steps("Train on the CPU even if there is a GPU.", False, switch)
    workers: int = _steps("Processes that prepare batches.", 2, whole(0))

    out: str = _output("Folder of the trained model; its checkpoints go into OUT.run beside it.", "", old="save_dir")
    truncate_to: int | None = _output("Write only the first layers, as a model of this depth.", None, whole(1))
    logging_steps: int = _output("Steps between log lines.", 100, whole(1))
    save_strategy: str = _output("When to write checkpoints: steps, epoch or no.", "steps", choice(*_STRATEGIES))
    save_steps: int = _output("Steps between checkpoints.", 100, whole(1))
    save_total_limit: int = _output("Number of checkpoints to keep.", 1, whole(1))
    eval_strategy: str = _output(
        "When to evaluate on held-out data: steps, epoch or no.", "steps", choice(*_STRATEGIES)
    )
    eval_steps: int = _output("Steps between evaluations.", 1000, whole(1))
    wandb_project: str = _output("Also log to this project of Weights & Biases, on its servers.", "")
    wandb_log_model: str = _output(
        "What Weights & Biases uploads: checkpoint, end or false.", "", choice("checkpoint", "end", "false")
    )

    def objective(self) -> dict[str, Any]:
        """The settings of ``AngleObjective`` that were given."""
        return self._given(_OBJECTIVE)

    def loss(self) -> dict[str, Any]:
        """The settings of ``EseLoss`` that were given."""
        named = self._given(_LOSS)
        own = {name: named[name] for name in LOSS_OPTIONS if name in named}
        return {**(self.loss_setting or {}), **own}

    def _given(self, group: str) -> dict[str, Any]:
        values = {name: getattr(self, name) for name, option in OPTIONS.items() if option.group == group}
        return {name: value for name, value in values.items() if value is not None and value != ""}


LOSS_OPTIONS = (
    "variant",
    "exits",
    "dims",
    "projections",
    "token_features",
    "align_w",
    "compression_size",
    "kl_temperature",
)
"""Options that are settings of ``EseLoss``."""

OPTIONS: Mapping[str, Option] = {
    item.name: Option(name=item.name, default=item.default, **item.metadata) for item in fields(TrainingSettings)
}
