"""Running a checkpoint over calibration texts: pooled token states of several layers, a batch at a time."""

from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
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

__all__ = ["CheckpointStates"]

Widen = Callable[[Iterable[str]], Iterable[str]]

# Texts that are tokenized and sorted together, and the largest batch.
_WINDOW = 1024
_BATCH_SIZE, _BATCH_TOKENS = 32, 4096


class CheckpointStates:
    """A checkpoint and its calibration texts, as fitting reads them; see :class:`ese_deploy.fitting.StateSource`.

    Args:
        checkpoint: the checkpoint, with its tokenizer and default prompt.
        backbone: its backbone, loaded.
        calibration: the texts.
        widen: gives further texts for each text.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backbone: nn.Module,
        calibration: CalibrationTexts,
        widen: Widen = with_sentence_groups,
    ) -> None:
        self.depth = checkpoint.depth
        self.hidden = checkpoint.hidden_size
        self.pooled = checkpoint.hidden_size * len(checkpoint.pooling.split("+"))
        self.width = checkpoint.width
        self.texts_name = str(calibration.texts.path)
        self._checkpoint = checkpoint
        self._backbone = backbone
        self._calibration = calibration
        self._widen = widen
        self._head = load_head(checkpoint.head)

    @property
    def _vocabulary(self) -> int:
        return int(self._backbone.get_input_embeddings().weight.shape[0])  # type: ignore[operator]

    def count_tokens(self, progress: Progress) -> TokenCounts:
        """Count the texts that contain each token."""
        found = np.zeros(self._vocabulary, np.int64)
        texts = 0
        for _, tokens in self._windows(progress, "count tokens"):
            texts += len(tokens.encodings)
            ids = np.concatenate([np.unique(encoding.ids) for encoding in tokens.encodings])
            found += np.bincount(ids, minlength=len(found))
        return TokenCounts(texts, found)

    def batches(
        self,
        states: Collection[int],
        progress: Progress,
        rarity: NDArray[np.float32] | None = None,
        weighted: Collection[int] = (),
    ) -> Iterator[StateBatch]:
        """Run the checkpoint over the texts."""
        table = None if rarity is None else torch.from_numpy(rarity)
        names, pooling = input_names(self._checkpoint), self._checkpoint.pooling
        for tokenizer, tokens in self._windows(progress, "calibrate"):
            for places in plan_batches(tokens.lengths, _BATCH_SIZE, _BATCH_TOKENS):
                encodings = [tokens.encodings[place] for place in places]
                batch = tokenizer.collate(encodings, names)
                inputs = [torch.from_numpy(batch[name]) for name in names]
                with torch.no_grad():
                    found = exit_states(self._backbone, self._checkpoint.architecture, *inputs)
                    pooled = {state: pool(found[state], inputs[1], pooling) for state in sorted({self.depth, *states})}
                    sums = {}
                    if table is not None:
                        weights = table[inputs[0]] * inputs[1]
                        sums = {state: weighted_sum(found[state], weights) for state in weighted}
                    vectors = self._head(pooled[self.depth])
                ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
                yield StateBatch(ids, pooled, sums, vectors)

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

    def _windows(self, progress: Progress, stage: str) -> Iterator[tuple[TextTokenizer, Tokens]]:
        """The tokenizer, and the tokens of a window of texts."""
        tokenizer = text_tokenizer(self._checkpoint)
        prefix = self._checkpoint.prompts.get(self._checkpoint.default_prompt_name or "", "")
        total, done = self._calibration.entry.texts, 0
        progress(stage, done, total)
        for rows in chunks(self._calibration.texts, _WINDOW):
            yield tokenizer, tokenizer([prefix + text for text in self._widen(row.text for row in rows)])
            done += len(rows)
            progress(stage, done, total)
