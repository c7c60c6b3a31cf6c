"""The vectors of every exit of a sentence-transformers model, from one forward pass."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor, nn

from ese_deploy.backbones.architectures import Architecture, find_architecture
from ese_deploy.backbones.exits import finish_states, weighted_sum
from ese_deploy.backbones.pooling import check_pooling, pool
from ese_deploy.errors import InputError

__all__ = ["ModelParts", "Pooled", "exit_vectors", "hidden_states", "model_parts", "pooled_states", "text_keys"]


@dataclass(frozen=True)
class ModelParts:
    """The parts of a model that define its exits.

    Attributes:
        backbone: the transformers model.
        architecture: how its exits are read.
        pooling: pooling modes joined by ``+``.
        head: the modules after the pooling, without a final Normalize.
        depth: number of layers.
        width: dimensions of the full vector.
    """

    backbone: nn.Module
    architecture: Architecture
    pooling: str
    head: tuple[nn.Module, ...]
    depth: int
    width: int

    @property
    def hidden(self) -> int:
        """Dimensions of a token state."""
        config: Any = self.backbone.config
        return int(config.hidden_size)

    @property
    def pooled(self) -> int:
        """Dimensions of pooled states."""
        return self.hidden * (self.pooling.count("+") + 1)


def model_parts(model: SentenceTransformer) -> ModelParts:
    """Find the parts of a model.

    Raises:
        InputError: the model is not a Transformer followed by a Pooling.
    """
    modules: list[Any] = list(model)
    names = [type(module).__name__ for module in modules]
    if len(modules) < 2 or not isinstance(modules[0], Transformer) or not isinstance(modules[1], Pooling):
        raise InputError(f"The model consists of {names}. Exits need a Transformer followed by a Pooling.")
    backbone = modules[0].model
    pooling: Any = modules[1].pooling_mode
    if not modules[1].include_prompt:
        raise InputError("The model excludes prompts from pooling, which no graph can do. Set include_prompt.")
    width = model.get_embedding_dimension()
    return ModelParts(
        backbone=backbone,
        architecture=find_architecture(backbone.config),
        pooling=check_pooling(pooling if isinstance(pooling, str) else "+".join(pooling)),
        head=tuple(modules[2:-1] if isinstance(modules[-1], Normalize) else modules[2:]),
        depth=int(backbone.config.num_hidden_layers),
        width=int(width or backbone.config.hidden_size),
    )


def exit_vectors(
    model: nn.Module, parts: ModelParts, features: Mapping[str, Any], raw: bool = False
) -> tuple[Tensor, ...]:
    """Run a model once and pool every exit.

    Args:
        model: the SentenceTransformer, or the trainer's distributed wrapper of it.
        parts: the parts of the model.
        features: the collator's output for one column of texts.
        raw: also return the embeddings' output, and skip the final norm of pre-norm models, as the authors' code does.

    Returns:
        float32 [n, width] for exits 1 to depth, not normalised; with ``raw`` for 0 to depth.
    """
    states, mask = hidden_states(model, parts, features, raw)
    with torch.autocast(mask.device.type, enabled=False):
        return tuple(_apply_head(parts, pool(state.float(), mask, parts.pooling)) for state in states[not raw :])


@dataclass(frozen=True)
class Pooled:
    """The pooled states of one batch, not normalised.

    Attributes:
        states: float32 [n, pooled] by layer.
        weighted: float32 [n, hidden] by layer, sums over tokens with the weights given; empty without weights.
        vectors: float32 [n, width], the full model's vectors.
    """

    states: dict[int, Tensor]
    weighted: dict[int, Tensor]
    vectors: Tensor


def pooled_states(
    model: nn.Module,
    parts: ModelParts,
    features: Mapping[str, Any],
    wanted: Collection[int],
    weights: Tensor | None = None,
) -> Pooled:
    """Run a model once and pool the token states of some layers and of the full model.

    Args:
        model: as in :func:`exit_vectors`.
        parts: the parts of the model.
        features: the collator's output for one column of texts.
        wanted: layers, counted from 1; 0 is the embeddings' output.
        weights: float32 [n, sequence], weights of the tokens for further sums.
    """
    states, mask = hidden_states(model, parts, features)
    with torch.autocast(mask.device.type, enabled=False):
        pooled = {state: pool(states[state].float(), mask, parts.pooling) for state in {*wanted, len(states) - 1}}
        vectors = _apply_head(parts, pooled[len(states) - 1])
        sums = {} if weights is None else {state: weighted_sum(states[state].float(), weights) for state in wanted}
        return Pooled({state: pooled[state] for state in wanted}, sums, vectors)


def text_keys(features: Mapping[str, Any]) -> Tensor:
    """A hash of each text, int64 [n]."""
    ids, mask = features["input_ids"], features["attention_mask"]
    place = mask.cumsum(1)
    # Products wrap around at 64 bits. Padding adds nothing.
    keys: Tensor = ((ids + 1) * (place * 2654435761 + 1) * (place * 40503 + ids * 2246822519 + 7) * mask).sum(1)
    return keys


def hidden_states(
    model: nn.Module, parts: ModelParts, features: Mapping[str, Any], raw: bool = False
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Token states of the embeddings and of every layer, [n, sequence, hidden], and the attention mask."""
    with _hidden_states(parts.backbone):
        output = model(dict(features))
    hidden, last = output["all_layer_embeddings"], output["token_embeddings"]
    states = (*hidden[:-1], last) if raw else finish_states(parts.backbone, parts.architecture, hidden, last)
    return states, features["attention_mask"]


@contextmanager
def _hidden_states(backbone: nn.Module) -> Iterator[None]:
    config: Any = backbone.config
    before = config.output_hidden_states
    config.output_hidden_states = True
    try:
        yield
    finally:
        config.output_hidden_states = before  # the config is saved with the model


def _apply_head(parts: ModelParts, vectors: Tensor) -> Tensor:
    for module in parts.head:
        vectors = module({"sentence_embedding": vectors})["sentence_embedding"]
    return vectors.float()
