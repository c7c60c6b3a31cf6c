"""Running the model that is trained over plain texts, to fit projections on its states."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import normalize

from ese_deploy.fitting import StateBatch, TokenCounts
from ese_deploy.losses.exits import Pooled, hidden_states, model_parts, pooled_states
from ese_deploy.system.progress import Progress, silent

__all__ = ["ModelStates", "run_texts"]

Features = dict[str, Any]

_CHARACTERS = 16_384
_WINDOW = 2048
_BATCH_TOKENS = 4096


class ModelStates:
    """A model and plain texts, as fitting reads them.

    Args:
        model: on the device where it is to compute; it is not changed.
        texts: distinct texts, with their prompts.
        max_length: longest text in tokens.
    """

    texts_name = "The training data"

    def __init__(self, model: SentenceTransformer, texts: Sequence[str], max_length: int) -> None:
        self._model, self._texts, self._max_length = model, list(texts), max_length
        self._parts = model_parts(model)
        self.depth = self._parts.depth
        self.hidden, self.pooled = self._parts.hidden, self._parts.pooled
        self.width = self._parts.width

    @property
    def _vocabulary(self) -> int:
        backbone: Any = self._parts.backbone
        return len(backbone.get_input_embeddings().weight)

    def count_tokens(self, progress: Progress) -> TokenCounts:
        """Count the texts that contain each token."""
        found = np.zeros(self._vocabulary, np.int64)
        for first in range(0, len(self._texts), _WINDOW):
            progress("count tokens", first, len(self._texts))
            features = self._model.preprocess(self._texts[first : first + _WINDOW], max_length=self._max_length)
            for ids in _tokens(features):
                found[np.unique(ids)] += 1
        progress("count tokens", len(self._texts), len(self._texts))
        return TokenCounts(len(self._texts), found)

    def batches(
        self,
        states: Collection[int],
        progress: Progress,
        rarity: NDArray[np.float32] | None = None,
        weighted: Collection[int] = (),
    ) -> Iterator[StateBatch]:
        """Run the model over the texts; see :class:`ese_deploy.fitting.StateSource`."""
        for features, found in run_texts(
            self._model, self._texts, self._max_length, states, progress, rarity, "calibrate"
        ):
            sums = {state: found.weighted[state].cpu() for state in weighted}
            pooled = {state: found.states[state].cpu() for state in states}
            yield StateBatch(_tokens(features), pooled, sums, found.vectors.cpu())

    @torch.no_grad()
    def token_states(self) -> NDArray[np.float32]:
        """The output of the embeddings for each token alone at the first position, [vocabulary, hidden]."""
        found = []
        device, training = next(self._model.parameters()).device, self._model.training
        self._model.eval()
        for first in range(0, self._vocabulary, _BATCH_TOKENS):
            ids = torch.arange(first, min(first + _BATCH_TOKENS, self._vocabulary), device=device)[:, None]
            features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            states, _ = hidden_states(self._model, self._parts, features)
            found.append(states[0][:, 0].float().cpu().numpy())
        self._model.train(training)
        return np.concatenate(found)

    def empty_text(self) -> NDArray[np.float32]:
        """The full model's vector of the empty text, of norm 1, [width]; zeros if the empty text has no token."""
        if not len(_tokens(self._model.preprocess([""], max_length=self._max_length))[0]):
            return np.zeros(self.width, np.float32)
        ((_, found),) = run_texts(self._model, [""], self._max_length, (), silent)
        unit: NDArray[np.float32] = normalize(found.vectors, dim=-1)[0].cpu().numpy()
        return unit


@torch.no_grad()
def run_texts(
    model: SentenceTransformer,
    texts: Sequence[str],
    max_length: int,
    states: Collection[int],
    progress: Progress,
    rarity: NDArray[np.float32] | None = None,
    stage: str = "fit projections",
) -> Iterator[tuple[Features, Pooled]]:
    """Run a model over plain texts: the features of a batch and its pooled states, on the model's device.

    Args:
        model: in any mode, which it has again afterwards.
        texts: the texts, with their prompts.
        max_length: longest text in tokens.
        states: the layers whose pooled states are wanted.
        progress: called after each window.
        rarity: rarity weights, float32 [vocabulary], for weighted sums.
        stage: what progress calls this.
    """
    parts = model_parts(model)
    device = next(model.parameters()).device
    weights = None if rarity is None else torch.from_numpy(rarity).to(device)
    training = model.training
    model.eval()
    progress(stage, 0, len(texts))
    for first in range(0, len(texts), _WINDOW):
        for batch in _batches(texts[first : first + _WINDOW]):
            features = model.preprocess(batch, max_length=max_length)
            for name, value in features.items():
                features[name] = value.to(device) if isinstance(value, Tensor) else value
            of_tokens = None if weights is None else weights[features["input_ids"]] * features["attention_mask"]
            yield features, pooled_states(model, parts, features, states, of_tokens)
        progress(stage, min(first + _WINDOW, len(texts)), len(texts))
    model.train(training)


def _tokens(features: Features) -> list[NDArray[np.int32]]:
    """Token ids of each text without padding."""
    ids = features["input_ids"].cpu().numpy().astype(np.int32)
    masks = features["attention_mask"].cpu().numpy().astype(bool)
    return [row[mask] for row, mask in zip(ids, masks, strict=True)]


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Batches of similar length: many short texts or few long ones."""
    batch: list[str] = []
    for text in sorted(texts, key=len):
        if batch and (len(batch) + 1) * len(text) > _CHARACTERS:
            yield batch
            batch = []
        batch.append(text)
    yield batch
