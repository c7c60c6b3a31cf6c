"""sentence-transformers' Matryoshka2dLoss over MultipleNegativesRankingLoss, with that library's own trainer.

Takes the options of training.train that the protocol uses, and writes a sentence-transformers folder.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import Matryoshka2dLoss, MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers

from ese_deploy.backbones.source import locate
from ese_deploy.system.files import replace_folder, staging_folder
from ese_deploy.target import default_dims
from ese_deploy.texts.reader import read_rows

_COLUMNS = ("anchor", "entailment", "contradiction")


def main(arguments: list[str]) -> None:
    """Train and save."""
    options = _options(arguments)
    torch.manual_seed(options.seed)
    model = SentenceTransformer(
        str(locate(options.model_name_or_path).path),
        device="cpu",
        local_files_only=True,
        model_kwargs={"dtype": torch.float32},
    )
    longest = model.max_seq_length
    model.max_seq_length = min(options.maxlen, longest or options.maxlen)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = options.dropout
    ranking = MultipleNegativesRankingLoss(model)
    width = int(model.get_embedding_dimension() or 0)
    settings = tomllib.loads("\n".join(options.loss_setting))
    loss = Matryoshka2dLoss(model, ranking, sorted(default_dims(width), reverse=True), **settings)
    with staging_folder(options.save_dir) as staging:
        trainer = SentenceTransformerTrainer(
            model=model, args=_arguments(options, staging / "run"), train_dataset=_data(options), loss=loss
        )
        trainer.train()
        model.max_seq_length = longest
        model.save_pretrained(str(staging / "model"), create_model_card=False)
        replace_folder(staging / "model", options.save_dir)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.matryoshka", description=__doc__)
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--train_name_or_path", type=Path, action="append", required=True)
    parser.add_argument("--save_dir", type=Path, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--max_steps", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--maxlen", type=int, required=True)
    parser.add_argument("--warmup_steps", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--lr_scheduler_type", default="linear")
    parser.add_argument("--bf16", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--logging_steps", type=int, default=20)
    parser.add_argument("--save_strategy", default="no")
    parser.add_argument("--loss_setting", action="append", default=[], help="name=value, of Matryoshka2dLoss")
    return parser.parse_args(arguments)


def _data(options: argparse.Namespace) -> Dataset:
    rows = [row for path in options.train_name_or_path for _, row in read_rows(path)]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in _COLUMNS})


def _arguments(options: argparse.Namespace, folder: Path) -> SentenceTransformerTrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": options.max_steps,
        "per_device_train_batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "warmup_steps": options.warmup_steps,
        "lr_scheduler_type": options.lr_scheduler_type,
        "bf16": bool(options.bf16),
        "use_cpu": not torch.accelerator.is_available(),
        "dataloader_num_workers": options.workers,
        "dataloader_drop_last": True,
        "logging_steps": options.logging_steps,
        "save_strategy": options.save_strategy,
        "seed": options.seed,
        "batch_sampler": BatchSamplers.NO_DUPLICATES,
        "report_to": [],
        "disable_tqdm": True,
    }
    return SentenceTransformerTrainingArguments(**settings)


if __name__ == "__main__":
    main(sys.argv[1:])
