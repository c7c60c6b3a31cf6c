"""The exits of a backbone: exit l, from 1, is the hidden state after block l, past the final norm if there is one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from ese_deploy.backbones.architectures import Architecture
from ese_deploy.backbones.masks import attention_masks
from ese_deploy.backbones.pooling import pool
from ese_deploy.errors import InputError
from ese_deploy.projections.projection import Projection

__all__ = ["Exits", "exit_states", "finish_states", "join_states"]


def exit_states(
    backbone: nn.Module,
    architecture: Architecture,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Run a backbone once and return the token states at every exit.

    Args:
        backbone: a model of transformers without a head.
        architecture: what is special about its exits.
        input_ids: int64 [batch, sequence].
        attention_mask: int64 [batch, sequence].
        token_type_ids: int64 [batch, sequence], or None for a backbone that has no token types.

    Returns:
        A tensor [batch, sequence, hidden] for the embeddings and for each block, the last one being the model's own
        output.

    Raises:
        InputError: the backbone gives more or fewer states than it has blocks.
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
    """The token states of the embeddings and at every exit, from what a backbone returned.

    Args:
        backbone: the backbone.
        architecture: what is special about its exits.
        hidden_states: [batch, sequence, hidden] for the embeddings and for each block.
        last_hidden_state: [batch, sequence, hidden], the model's own output.

    Raises:
        InputError: there are more or fewer states than the backbone has blocks.
    """
    config: Any = backbone.config
    states = list(hidden_states)
    if len(states) != config.num_hidden_layers + 1:
        raise InputError(
            f"architecture '{architecture.model_type}' gives {len(states) - 1} hidden states for "
            f"{config.num_hidden_layers} blocks; its exits cannot be told apart"
        )
    if architecture.final_norm is not None:
        norm = backbone.get_submodule(architecture.final_norm)
        states[1:-1] = [norm(state) for state in states[1:-1]]
    return (*states[:-1], last_hidden_state)


class Exits(nn.Module):
    """A backbone that returns a pooled vector at several exits.

    Args:
        backbone: a model of transformers without a head.
        architecture: what is special about its exits.
        pooling: poolings joined by ``+``, such as ``mean``.
        depths: the exits wanted, from 1.
        head: what follows the pooling, from [batch, pooled] to [batch, width].
        maps: for some exits a map of what they have computed to [batch, width].
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
        self.projections = nn.ModuleDict({str(depth): ExitMap(fitted) for depth, fitted in (projections or {}).items()})

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Return a tensor [batch, width] for each depth, not normalised."""
        states = exit_states(self.backbone, self.architecture, input_ids, attention_mask, token_type_ids)
        # Pooled once, however many exits read it.
        pooled: dict[int, Tensor] = {}
        for state in sorted({state for depth in self.depths for state in self._reads(depth)}):
            pooled[state] = pool(states[state], attention_mask, self.pooling)
        return {depth: self._vectors(depth, pooled) for depth in self.depths}

    def _reads(self, depth: int) -> tuple[int, ...]:
        return (self._map(depth).states if str(depth) in self.projections else ()) or (depth,)

    def _map(self, depth: int) -> "ExitMap":
        module = self.projections[str(depth)]
        assert isinstance(module, ExitMap)
        return module

    def _vectors(self, depth: int, pooled: Mapping[int, Tensor]) -> Tensor:
        if str(depth) not in self.projections:
            vectors: Tensor = self.head(pooled[depth])
            return vectors
        fitted = self._map(depth)
        if not fitted.states:
            return linear(self.head(pooled[depth]), fitted.matrix)
        return linear(join_states([pooled[state] for state in fitted.states]), fitted.matrix)


class ExitMap(nn.Module):
    """The matrix of one exit; one serves all its targets.

    Args:
        fitted: the map.
    """

    matrix: Tensor

    def __init__(self, fitted: Projection) -> None:
        super().__init__()
        self.states = fitted.states
        self.register_buffer("matrix", torch.from_numpy(fitted.matrix.copy()))


def join_states(pooled: Sequence[Tensor]) -> Tensor:
    """What a map of several states reads: each [batch, pooled] scaled to norm 1, one behind another."""
    return torch.cat([normalize(state, dim=-1) for state in pooled], dim=-1)
