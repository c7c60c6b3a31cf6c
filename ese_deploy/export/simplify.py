"""Replacing modules of transformers by equivalent modules that trace to fewer nodes."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["simplify"]


def simplify(backbone: nn.Module) -> None:
    """Replace modules of a backbone in place; results change by rounding only."""
    for path, module in list(backbone.named_modules()):
        kind = type(module).__name__
        if kind == "NewGELUActivation":
            _replace(backbone, path, nn.GELU(approximate="tanh"))
        elif kind == "MPNetSelfAttention":
            _replace(backbone, path, _MPNetAttention(module))


class _MPNetAttention(nn.Module):
    """The attention of MPNet as one call, which becomes one Attention node."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = attention.q, attention.k, attention.v, attention.o
        self.head_size = int(attention.attention_head_size)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, position_bias: Tensor, **_: object
    ) -> tuple[Tensor]:
        heads = (*hidden_states.shape[:-1], -1, self.head_size)
        q, k, v = (layer(hidden_states).view(heads).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=position_bias + attention_mask)
        return (self.o(mixed.transpose(1, 2).flatten(2)),)


def _replace(backbone: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(backbone.get_submodule(parent), name, module)
