"""What is done beside the steps: a line and a bar for people, whole checkpoints, Spearman after each epoch."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from torch import nn
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ese_deploy.losses.batch import check_parameters
from ese_deploy.system.files import write_atomic
from ese_deploy.training.data import TrainingData
from ese_deploy.training.run_folder import finish_checkpoint

__all__ = ["Console", "SpearmanEachEpoch", "WholeCheckpoints"]

_KNOWN = ("loss", "eval_loss", "grad_norm", "learning_rate", "epoch", "train_loss", "total_flos")
_BEST = "best-checkpoint"
_BEST_SCORE = "best-checkpoint.txt"


class Console(TrainerCallback):
    """A bar where standard error is a terminal, and in any case a line for each log, with the parts of the loss."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the bar where the run begins."""
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="training", disable=None, dynamic_ncols=True
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n if not self._bar.disable else 0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line."""
        loss = next((name for name in ("loss", "eval_loss") if name in (logs or {})), None)
        if not state.is_world_process_zero or logs is None or loss is None:
            return
        parts = {name: value for name, value in logs.items() if name not in _KNOWN and not _is_timing(name)}
        cells = [f"step {state.global_step}/{state.max_steps}", f"{loss} {logs[loss]:.4g}"]
        cells += [f"{name} {value:.4g}" for name, value in parts.items()]
        if "grad_norm" in logs:
            cells += [f"gradient {logs['grad_norm']:.3g}", f"rate {logs['learning_rate']:.3g}"]
        tqdm.write("  ".join(cells), file=sys.stderr)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class WholeCheckpoints(TrainerCallback):
    """Marks a checkpoint when everything of it is written, and removes older ones only then.

    Comes after the callbacks that write into checkpoints.

    Args:
        kept: how many checkpoints remain.
        loss: the trainer's; its parameters and the model's must be finite.
    """

    def __init__(self, kept: int, loss: nn.Module) -> None:
        self._kept = kept
        self._loss = loss

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Wait for all processes, then mark and tidy up; the main process alone.

        Raises:
            TrainingError: what was written is not finite.
        """
        check_parameters(self._loss)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            finish_checkpoint(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", self._kept)


class SpearmanEachEpoch(TrainerCallback):
    """Spearman's correlation of the full model with scored pairs after each epoch; the best model is kept.

    Its figure lies beside it, for a run that goes on.

    Args:
        data: format A.
        save: writes the model into a folder.
    """

    def __init__(self, data: TrainingData, save: Callable[[Path], None]) -> None:
        rows = data.dataset
        self._save = save
        self._best = float("-inf")
        self._evaluator = EmbeddingSimilarityEvaluator(
            list(rows["text1"]), list(rows["text2"]), list(rows["label"]), main_similarity="cosine", write_csv=False
        )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Know the best model of the run that goes on."""
        path = Path(str(args.output_dir)) / _BEST_SCORE
        if state.global_step > 0 and path.is_file():
            self._best = float(path.read_text("utf-8"))

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: SentenceTransformer | None = None,
        **kwargs: Any,
    ) -> None:
        """Evaluate, say it, and save the model if it is the best so far; the main process alone."""
        if not state.is_world_process_zero or model is None:
            return
        plain: SentenceTransformer = getattr(model, "module", model)
        training = plain.training
        scores = self._evaluator(plain.eval())
        plain.train(training)
        score = float(scores[str(self._evaluator.primary_metric)])
        tqdm.write(f"step {state.global_step}/{state.max_steps}  spearman {100 * score:.2f}", file=sys.stderr)
        if score > self._best:
            self._best = score
            folder = Path(str(args.output_dir))
            self._save(folder / _BEST)
            with write_atomic(folder / _BEST_SCORE) as file:
                file.write(f"{score}\n".encode())


def _is_timing(name: str) -> bool:
    return name.endswith(("_runtime", "_per_second", "_flos"))
