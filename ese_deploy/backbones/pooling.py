"""Pooling token states into one vector."""

import torch
from torch import Tensor

from ese_deploy.backbones.stated import POOLINGS, check_pooling

__all__ = ["POOLINGS", "check_pooling", "pool"]


def pool(states: Tensor, attention_mask: Tensor, mode: str) -> Tensor:
    """Pool token states as sentence-transformers does.

    Args:
        states: [batch, sequence, hidden].
        attention_mask: [batch, sequence], 1 for a token and 0 for padding on either side.
        mode: ``mean`` over the tokens; ``cls``, the first token; ``lasttoken``; ``max`` over the tokens;
            ``mean_sqrt_len_tokens``, their sum divided by the square root of their number; ``weightedmean``, with the
            weights 1, 2, ... from the first token on; or several of them joined by ``+``.

    Returns:
        [batch, hidden * modes], concatenated, in the dtype of ``states``. A row without tokens is undefined.

    Raises:
        InputError: a mode is not supported.
    """
    pooled = [_pool(states, attention_mask, name) for name in check_pooling(mode).split("+")]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)


def _pool(states: Tensor, attention_mask: Tensor, mode: str) -> Tensor:
    if mode in ("cls", "lasttoken"):
        return _select(states, attention_mask, last=mode == "lasttoken")
    mask = attention_mask.unsqueeze(-1)
    if mode == "max":
        return states.masked_fill(mask == 0, torch.finfo(states.dtype).min).amax(1)
    # The cumulative sum counts tokens from 1, whichever side the padding is on.
    weights = (mask.cumsum(1) * mask if mode == "weightedmean" else mask).to(states.dtype)
    total = weights.sum(1).clamp(min=1e-9)
    return (states * weights).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


def _select(states: Tensor, attention_mask: Tensor, last: bool) -> Tensor:
    """Select the state of the first or the last token of each row."""
    end = states.shape[1] - 1
    # A token ranks higher the closer it is to the wanted end; padding ranks lowest.
    # The maximum, not argmax: ONNX Runtime has no ArgMax for GPUs since opset 12.
    ranks = torch.arange(end + 1, dtype=torch.int32, device=states.device)
    best = (attention_mask.int() * (ranks if last else ranks.flip(0))).amax(1).long()
    return states[torch.arange(states.shape[0], device=states.device), best if last else end - best]
