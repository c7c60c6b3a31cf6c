"""Running a checkpoint over calibration texts: pooled token states of several layers, a batch at a time."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ese_deploy.backbones import Checkpoint, exit_states, pool
from ese_deploy.backbones.exits import weighted_sum
from ese_deploy.evaluate.checkpoint import text_tokenizer
from ese_deploy.export.texts import CalibrationTexts
from ese_deploy.export.trace import input_names
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.tokenize import TextTokenizer, Tokens
from ese_deploy.system.progress import Progress
from ese_deploy.texts.reader import chunks

__all__ = ["StateBatch", "TokenCounts", "count_tokens", "pooled_states", "token_states"]

Widen = Callable[[Iterable[str]], Iterable[str]]

# Texts that are tokenized and sorted together, and the largest batch.
_WINDOW = 1024
_BATCH_SIZE, _BATCH_TOKENS = 32, 4096


@dataclass(frozen=True)
class StateBatch:
    """The pooled token states of one batch.

    Attributes:
        tokens: token ids of each text, special tokens included.
        pooled: for each state float32 [batch, pooled].
        weighted: for each state float32 [batch, hidden], the sum of the token states weighted by rarity; empty without
            rarity weights.
    """

    tokens: list[NDArray[np.int32]]
    pooled: dict[int, Tensor]
    weighted: dict[int, Tensor]


@dataclass(frozen=True)
class TokenCounts:
    """How often tokens occur.

    Attributes:
        texts: number of texts.
        with_token: for each token the number of texts that contain it, int64 [vocabulary].
    """

    texts: int
    with_token: NDArray[np.int64]


def count_tokens(
    checkpoint: Checkpoint, calibration: CalibrationTexts, vocabulary: int, progress: Progress, widen: Widen = iter
) -> TokenCounts:
    """Count the texts that contain each token.

    Args:
        checkpoint: the checkpoint, for its tokenizer and default prompt.
        calibration: the texts.
        vocabulary: rows of the checkpoint's token embeddings.
        progress: called after each window.
        widen: gives further texts for each text.
    """
    found = np.zeros(vocabulary, np.int64)
    texts = 0
    for _, tokens in _windows(checkpoint, calibration, progress, widen, "count tokens"):
        texts += len(tokens.encodings)
        found += np.bincount(
            np.concatenate([np.unique(encoding.ids) for encoding in tokens.encodings]), minlength=vocabulary
        )
    return TokenCounts(texts, found)


def pooled_states(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    states: Iterable[int],
    calibration: CalibrationTexts,
    progress: Progress,
    widen: Widen = iter,
    rarity: NDArray[np.float32] | None = None,
    weighted: Collection[int] = (),
) -> Iterator[StateBatch]:
    """The pooled token states after some layers, one batch of texts at a time.

    Args:
        checkpoint: the checkpoint.
        backbone: its backbone, loaded.
        states: the layers; 0 is the output of the embeddings.
        calibration: the texts.
        progress: called after each window.
        widen: gives further texts for each text.
        rarity: rarity weights, float32 [vocabulary].
        weighted: states of which rarity-weighted sums are wanted too.
    """
    wanted = sorted(states)
    table = None if rarity is None else torch.from_numpy(rarity)
    names = input_names(checkpoint)
    for tokenizer, tokens in _windows(checkpoint, calibration, progress, widen, "calibrate"):
        for places in plan_batches(tokens.lengths, _BATCH_SIZE, _BATCH_TOKENS):
            encodings = [tokens.encodings[place] for place in places]
            batch = tokenizer.collate(encodings, names)
            inputs = [torch.from_numpy(batch[name]) for name in names]
            with torch.no_grad():
                found = exit_states(backbone, checkpoint.architecture, *inputs)
                pooled = {state: pool(found[state], inputs[1], checkpoint.pooling) for state in wanted}
                sums = {}
                if table is not None:
                    weights = table[inputs[0]] * inputs[1]
                    sums = {state: weighted_sum(found[state], weights) for state in weighted}
            ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
            yield StateBatch(ids, pooled, sums)


def token_states(checkpoint: Checkpoint, backbone: nn.Module, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """The output of the embeddings for single tokens at the first position, float32 [n, hidden]."""
    found = []
    names = input_names(checkpoint)
    for start in range(0, len(tokens), _BATCH_TOKENS):
        ids = torch.from_numpy(tokens[start : start + _BATCH_TOKENS, None])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        with torch.no_grad():
            states = exit_states(backbone, checkpoint.architecture, *(inputs[name] for name in names))
        found.append(states[0][:, 0].numpy())
    return np.concatenate(found)


def _windows(
    checkpoint: Checkpoint, calibration: CalibrationTexts, progress: Progress, widen: Widen, stage: str
) -> Iterator[tuple[TextTokenizer, Tokens]]:
    """The tokenizer, and the tokens of a window of texts."""
    tokenizer = text_tokenizer(checkpoint)
    prefix = checkpoint.prompts.get(checkpoint.default_prompt_name or "", "")
    total, done = calibration.entry.texts, 0
    progress(stage, done, total)
    for rows in chunks(calibration.texts, _WINDOW):
        yield tokenizer, tokenizer([prefix + text for text in widen(row.text for row in rows)])
        done += len(rows)
        progress(stage, done, total)
