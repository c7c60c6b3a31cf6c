"""The exits of a backbone: exit l is the hidden state after layer l, counted from 1, with the final norm applied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, normalize

from ese_deploy.backbones.architectures import Architecture
from ese_deploy.backbones.masks import attention_masks
from ese_deploy.backbones.pooling import pool
from ese_deploy.errors import InputError
from ese_deploy.projections.projection import Projection
from ese_deploy.projections.tokens import TokenFeatures

__all__ = ["Exits", "exit_states", "finish_states", "join_states", "weighted_sum"]


def exit_states(
    backbone: nn.Module,
    architecture: Architecture,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Run a backbone once and return the token states of all exits.

    Args:
        backbone: a model of transformers without a head.
        architecture: its row in the table of architectures.
        input_ids: int64 [batch, sequence].
        attention_mask: int64 [batch, sequence].
        token_type_ids: int64 [batch, sequence], or None for a backbone without token types.

    Returns:
        A tensor [batch, sequence, hidden] for the embeddings and for each layer. The last one is the model's output.

    Raises:
        InputError: the backbone returns more or fewer states than it has layers.
    """
    inputs: dict[str, object] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    if architecture.rotary:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        inputs["position_ids"] = positions[None].expand(input_ids.shape[0], -1)
    config: Any = backbone.config
    masks = attention_masks(architecture, config, attention_mask)
    output = backbone(input_ids=input_ids, attention_mask=masks, output_hidden_states=True, **inputs)
    return finish_states(backbone, architecture, output.hidden_states, output.last_hidden_state)


def finish_states(
    backbone: nn.Module, architecture: Architecture, hidden_states: Sequence[Tensor], last_hidden_state: Tensor
) -> tuple[Tensor, ...]:
    """Apply the final norm to the hidden states that a backbone returned, where the backbone did not.

    Args:
        backbone: the backbone.
        architecture: its row in the table of architectures.
        hidden_states: [batch, sequence, hidden] for the embeddings and for each layer.
        last_hidden_state: [batch, sequence, hidden], the model's output.

    Raises:
        InputError: there are more or fewer states than the backbone has layers.
    """
    config: Any = backbone.config
    states = list(hidden_states)
    if len(states) != config.num_hidden_layers + 1:
        raise InputError(
            f"Architecture '{architecture.model_type}' returns {len(states) - 1} hidden states for "
            f"{config.num_hidden_layers} layers, so its exits cannot be exported."
        )
    if architecture.final_norm is not None:
        norm = backbone.get_submodule(architecture.final_norm)
        states[1:-1] = [norm(state) for state in states[1:-1]]
    return (*states[:-1], last_hidden_state)


class Exits(nn.Module):
    """A backbone that returns a pooled vector for each of several exits.

    Args:
        backbone: a model of transformers without a head.
        architecture: its row in the table of architectures.
        pooling: poolings joined by ``+``, such as ``mean``.
        depths: the exits to return.
        head: the modules after the pooling, from [batch, pooled] to [batch, width].
        projections: for some exits a projection to [batch, width].
    """

    def __init__(
        self,
        backbone: nn.Module,
        architecture: Architecture,
        pooling: str,
        depths: Sequence[int],
        head: nn.Module | None = None,
        projections: Mapping[int, Projection] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.architecture = architecture
        self.pooling = pooling
        self.depths = tuple(depths)
        self.head = head or nn.Identity()
        self.projections = nn.ModuleDict(
            {str(depth): ExitProjection(projection) for depth, projection in (projections or {}).items()}
        )
        read = [projection.tokens for projection in (projections or {}).values() if projection.tokens is not None]
        self.tokens = TokenBuffers(read[0]) if read else None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Return a tensor [batch, width] for each depth, not normalised."""
        # Several exits may read a state; it is pooled once.
        needed = sorted({state for depth in self.depths for state in self._input_states(depth)})
        inputs = _Inputs({}, {}, None)
        if needed:
            states = exit_states(self.backbone, self.architecture, input_ids, attention_mask, token_type_ids)
            inputs.pooled.update({state: pool(states[state], attention_mask, self.pooling) for state in needed})
            weighted = sorted({state for depth in self.depths for state in self._weighted_states(depth)})
            if weighted:
                assert self.tokens is not None
                weights = self.tokens.weights(input_ids, attention_mask)
                inputs.weighted.update({state: weighted_sum(states[state], weights) for state in weighted})
        if any(self._reads_table(depth) for depth in self.depths):
            assert self.tokens is not None
            inputs.table = self.tokens.sums(input_ids, attention_mask)
        return {depth: self._vectors(depth, inputs) for depth in self.depths}

    def _projection(self, depth: int) -> "ExitProjection | None":
        if str(depth) not in self.projections:
            return None
        module = self.projections[str(depth)]
        assert isinstance(module, ExitProjection)
        return module

    def _input_states(self, depth: int) -> tuple[int, ...]:
        projection = self._projection(depth)
        if projection is None:
            return (depth,)
        return projection.states or (() if projection.features else (depth,))

    def _weighted_states(self, depth: int) -> tuple[int, ...]:
        projection = self._projection(depth)
        return projection.states if projection and "rarity" in projection.features else ()

    def _reads_table(self, depth: int) -> bool:
        projection = self._projection(depth)
        return projection is not None and "table" in projection.features

    def _vectors(self, depth: int, inputs: "_Inputs") -> Tensor:
        projection = self._projection(depth)
        if projection is None or not (projection.states or projection.features):
            vectors: Tensor = self.head(inputs.pooled[depth])
            return projection(vectors) if projection else vectors
        rows = [inputs.pooled[state] for state in projection.states]
        rows += [inputs.weighted[state] for state in self._weighted_states(depth)]
        if self._reads_table(depth):
            assert inputs.table is not None
            rows.append(inputs.table)
        # A lookup is scaled to norm 1 by the end of the graph.
        joined: Tensor = projection(join_states(rows) if projection.states else rows[0])
        return joined


@dataclass
class _Inputs:
    """What projections read, for one batch.

    Attributes:
        pooled: for each state [batch, pooled].
        weighted: for each state [batch, hidden], its sum over tokens weighted by their rarity.
        table: [batch, width], the sum of token vectors.
    """

    pooled: dict[int, Tensor]
    weighted: dict[int, Tensor]
    table: Tensor | None


class ExitProjection(nn.Module):
    """The projection matrix of one exit, which all targets of the exit share."""

    matrix: Tensor

    def __init__(self, projection: Projection) -> None:
        super().__init__()
        self.states = projection.states
        self.features = projection.tokens.names if projection.tokens else frozenset()
        rows, columns = projection.matrix.shape
        # A lookup in the bundle's own embedding space needs no product.
        self.identity = rows == columns and np.array_equal(projection.matrix, np.eye(rows, dtype=np.float32))
        self.register_buffer("matrix", torch.from_numpy(projection.matrix.copy()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Project [batch, inputs] to [batch, width]."""
        return inputs if self.identity else linear(inputs, self.matrix)


class TokenBuffers(nn.Module):
    """The token features, which all exits share."""

    rarity: Tensor
    table: Tensor

    def __init__(self, tokens: TokenFeatures) -> None:
        super().__init__()
        # As embeddings, which torch traces to Gather.
        for name in sorted(tokens.names):
            array = getattr(tokens, name)
            self.register_buffer(name, torch.from_numpy(array.reshape(len(array), -1).copy()))

    def weights(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The rarity of each token, 0 for padding, [batch, sequence]."""
        return embedding(input_ids, self.rarity).squeeze(-1) * attention_mask.to(self.rarity.dtype)

    def sums(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The sums of token vectors, [batch, width]."""
        return weighted_sum(embedding(input_ids, self.table), attention_mask.to(self.table.dtype))


def weighted_sum(states: Tensor, weights: Tensor) -> Tensor:
    """The sum of [batch, sequence, hidden] over the sequence with weights [batch, sequence]: [batch, hidden]."""
    return (weights.unsqueeze(1) @ states).squeeze(1)


def join_states(pooled: Sequence[Tensor]) -> Tensor:
    """The input of a projection of several states: each [batch, pooled] scaled to norm 1, then concatenated."""
    return torch.cat([normalize(state, dim=-1) for state in pooled], dim=-1)
