"""Running a checkpoint over calibration texts: pooled token states of several layers, a batch at a time."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from ese_deploy.backbones import Checkpoint, exit_states, pool
from ese_deploy.backbones.dense import load_head
from ese_deploy.backbones.exits import weighted_sum
from ese_deploy.evaluate.checkpoint import text_tokenizer
from ese_deploy.export.texts import CalibrationTexts
from ese_deploy.export.trace import input_names
from ese_deploy.fitting import StateBatch, TokenCounts
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.runtime.tokenize import TextTokenizer, Tokens
from ese_deploy.system.progress import Progress
from ese_deploy.texts.reader import chunks
from ese_deploy.texts.sentences import with_sentence_groups

__all__ = ["CheckpointStates", "PooledBatch", "pooled_states"]

Widen = Callable[[Iterable[str]], Iterable[str]]

# Texts that are tokenized and sorted together, and the largest batch.
_WINDOW = 1024
_BATCH_SIZE, _BATCH_TOKENS = 32, 4096


@dataclass(frozen=True)
class PooledBatch:
    """The pooled token states of one batch.

    Attributes:
        tokens: token ids of each text, special tokens included.
        pooled: for each state float32 [batch, pooled].
        weighted: for each state float32 [batch, hidden], the sum of the token states weighted by rarity.
    """

    tokens: list[NDArray[np.int32]]
    pooled: dict[int, Tensor]
    weighted: dict[int, Tensor]


class CheckpointStates:
    """A checkpoint and its calibration texts with their sentence groups, as fitting reads them.

    Args:
        checkpoint: the checkpoint, with its tokenizer and default prompt.
        backbone: its backbone, loaded.
        calibration: the texts.
    """

    def __init__(self, checkpoint: Checkpoint, backbone: nn.Module, calibration: CalibrationTexts) -> None:
        self.depth = checkpoint.depth
        self.hidden = checkpoint.hidden_size
        self.pooled = checkpoint.hidden_size * len(checkpoint.pooling.split("+"))
        self.width = checkpoint.width
        self.texts_name = str(calibration.texts.path)
        self._checkpoint = checkpoint
        self._backbone = backbone
        self._calibration = calibration
        self._head = load_head(checkpoint.head)

    @property
    def _vocabulary(self) -> int:
        return int(self._backbone.get_input_embeddings().weight.shape[0])  # type: ignore[operator]

    def count_tokens(self, progress: Progress) -> TokenCounts:
        """Count the texts that contain each token."""
        found = np.zeros(self._vocabulary, np.int64)
        texts = 0
        windows = _windows(self._checkpoint, self._calibration, progress, with_sentence_groups, "count tokens")
        for _, tokens in windows:
            texts += len(tokens.encodings)
            ids = np.concatenate([np.unique(encoding.ids) for encoding in tokens.encodings])
            found += np.bincount(ids.astype(np.int64), minlength=len(found))
        return TokenCounts(texts, found)

    def batches(
        self,
        states: Collection[int],
        progress: Progress,
        rarity: NDArray[np.float32] | None = None,
        weighted: Collection[int] = (),
    ) -> Iterator[StateBatch]:
        """Run the checkpoint over the texts; see :class:`ese_deploy.fitting.StateSource`."""
        chosen = {self.depth, *states}
        found = pooled_states(
            self._checkpoint,
            self._backbone,
            chosen,
            self._calibration,
            progress,
            with_sentence_groups,
            rarity,
            weighted,
        )
        for batch in found:
            yield StateBatch(batch.tokens, batch.pooled, batch.weighted, self._head(batch.pooled[self.depth]))

    def token_states(self) -> NDArray[np.float32]:
        """The output of the embeddings for each token alone at the first position, [vocabulary, hidden]."""
        found = []
        names = input_names(self._checkpoint)
        for first in range(0, self._vocabulary, _BATCH_TOKENS):
            ids = torch.arange(first, min(first + _BATCH_TOKENS, self._vocabulary))[:, None]
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
            with torch.no_grad():
                states = exit_states(self._backbone, self._checkpoint.architecture, *(inputs[name] for name in names))
            found.append(states[0][:, 0].numpy())
        return np.concatenate(found)

    def empty_text(self) -> NDArray[np.float32]:
        """The full model's vector of the empty text, of norm 1, [width]; zeros if the empty text has no token."""
        ids = text_tokenizer(self._checkpoint).tokenizer.encode("").ids
        if not ids:
            return np.zeros(self.width, np.float32)
        tokens = torch.tensor([ids])
        mask = torch.ones_like(tokens)
        with torch.no_grad():
            states = exit_states(self._backbone, self._checkpoint.architecture, tokens, mask)
            vector = self._head(pool(states[-1], mask, self._checkpoint.pooling))
        unit: NDArray[np.float32] = normalize(vector, dim=-1)[0].numpy()
        return unit


def pooled_states(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    states: Iterable[int],
    calibration: CalibrationTexts,
    progress: Progress,
    widen: Widen = iter,
    rarity: NDArray[np.float32] | None = None,
    weighted: Collection[int] = (),
) -> Iterator[PooledBatch]:
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
            yield PooledBatch(ids, pooled, sums)


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
