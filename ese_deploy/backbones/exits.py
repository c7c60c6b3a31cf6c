"""The exits of a backbone: exit l, from 1, is the hidden state after block l, past the final norm if there is one."""

from collections.abc import Sequence

from torch import Tensor, nn

from ese_deploy.backbones.architectures import Architecture
from ese_deploy.backbones.pooling import pool

__all__ = ["Exits", "exit_states"]


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
        A tensor [batch, sequence, hidden] for each block, the last one being the model's own output.
    """
    batch, sequence = input_ids.shape
    # A mask of four dimensions passes through transformers as it is, and traces to fewer nodes than its own would.
    mask = attention_mask[:, None, None, :].bool().expand(batch, 1, sequence, sequence)
    types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    output = backbone(input_ids=input_ids, attention_mask=mask, output_hidden_states=True, **types)
    states: list[Tensor] = list(output.hidden_states[1:])
    if architecture.final_norm is not None:
        norm = backbone.get_submodule(architecture.final_norm)
        states[:-1] = [norm(state) for state in states[:-1]]
    return tuple(states)


class Exits(nn.Module):
    """A backbone that returns a pooled vector at several exits.

    Args:
        backbone: a model of transformers without a head.
        architecture: what is special about its exits.
        pooling: ``mean`` or ``cls``.
        depths: the exits wanted, from 1.
    """

    def __init__(self, backbone: nn.Module, architecture: Architecture, pooling: str, depths: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.architecture = architecture
        self.pooling = pooling
        self.depths = tuple(depths)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[int, Tensor]:
        """Return a tensor [batch, width] for each depth, not normalised."""
        states = exit_states(self.backbone, self.architecture, input_ids, attention_mask, token_type_ids)
        return {depth: pool(states[depth - 1], attention_mask, self.pooling) for depth in self.depths}
