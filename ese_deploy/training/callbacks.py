"""Callbacks of the trainer: log lines and progress, complete checkpoints, Spearman after each epoch."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ese_deploy.losses.batch import check_parameters
from ese_deploy.system.files import write_atomic
from ese_deploy.system.progress import Progress
from ese_deploy.training.data import TrainingData
from ese_deploy.training.plan import warm_up_warning
from ese_deploy.training.run_folder import finish_checkpoint
from ese_deploy.training.timing import TimeLeft

__all__ = ["CompleteCheckpoints", "SpearmanEachEpoch", "StepLog"]

logger = logging.getLogger(__name__)

_KNOWN = ("loss", "eval_loss", "grad_norm", "learning_rate", "epoch", "train_loss", "total_flos")
_BEST = "best-checkpoint"
_BEST_SCORE = "best-checkpoint.txt"


class StepLog(TrainerCallback):
    """Reports progress after each step, and logs the loss and its parts.

    Args:
        progress: called on the main process.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._left = TimeLeft()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn of a warm-up that the run does not finish."""
        warning = warm_up_warning(int(args.warmup_steps), state.max_steps)
        if warning and state.is_world_process_zero:
            logger.warning("%s", warning)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the step."""
        if state.is_world_process_zero:
            self._progress("training", state.global_step, state.max_steps)
            if self._left.step(state.global_step) and (words := self._left.words(state.max_steps)):
                logger.info("step %d/%d  %s", state.global_step, state.max_steps, words)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log a line."""
        loss = next((name for name in ("loss", "eval_loss") if name in (logs or {})), None)
        if not state.is_world_process_zero or logs is None or loss is None:
            return
        parts = {name: value for name, value in logs.items() if name not in _KNOWN and not _is_timing(name)}
        cells = [f"step {state.global_step}/{state.max_steps}", f"{loss} {logs[loss]:.4g}"]
        cells += [f"{name} {value:.4g}" for name, value in parts.items()]
        if "grad_norm" in logs:
            cells += [f"gradient {logs['grad_norm']:.3g}", f"rate {logs['learning_rate']:.3g}"]
        if words := self._left.words(state.max_steps):
            cells.append(words)
        logger.info("%s", "  ".join(cells))


class CompleteCheckpoints(TrainerCallback):
    """Marks a checkpoint as complete, and only then removes older ones.

    Must come after the callbacks that write into checkpoints.

    Args:
        kept: number of checkpoints to keep.
        loss: the trainer's loss, whose parameters must be finite.
    """

    def __init__(self, kept: int, loss: nn.Module) -> None:
        self._kept = kept
        self._loss = loss

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Wait for all processes, then mark the checkpoint on the main process.

        Raises:
            TrainingError: a weight is not finite.
        """
        check_parameters(self._loss)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            finish_checkpoint(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", self._kept)


class SpearmanEachEpoch(TrainerCallback):
    """Logs the full model's Spearman correlation on scored pairs after each epoch, and keeps the best model.

    The best score is stored beside the model, for resuming.

    Args:
        data: data of format A.
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
        """Read the best score of the run that resumes."""
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
        """Evaluate, log the score, and save the model if it is the best so far; on the main process only."""
        if not state.is_world_process_zero or model is None:
            return
        plain: SentenceTransformer = getattr(model, "module", model)
        training = plain.training
        scores = self._evaluator(plain.eval())
        plain.train(training)
        score = float(scores[str(self._evaluator.primary_metric)])
        logger.info("step %d/%d  spearman %.2f", state.global_step, state.max_steps, 100 * score)
        if score > self._best:
            self._best = score
            folder = Path(str(args.output_dir))
            self._save(folder / _BEST)
            with write_atomic(folder / _BEST_SCORE) as file:
                file.write(f"{score}\n".encode())


def _is_timing(name: str) -> bool:
    return name.endswith(("_runtime", "_per_second", "_flos"))
