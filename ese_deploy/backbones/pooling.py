"""From token states to one vector."""

import torch
from torch import Tensor

from ese_deploy.errors import InputError

__all__ = ["POOLINGS", "check_pooling", "pool"]

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def check_pooling(mode: str) -> str:
    """Return the mode.

    Raises:
        InputError: it is not supported.
    """
    unknown = [name for name in mode.split("+") if name not in POOLINGS]
    if unknown:
        raise InputError(
            f"pooling '{unknown[0]}' is not supported; supported are: {', '.join(POOLINGS)}, and several joined by +"
        )
    return mode


def pool(states: Tensor, attention_mask: Tensor, mode: str) -> Tensor:
    """Pool token states as sentence-transformers does.

    Args:
        states: [batch, sequence, hidden].
        attention_mask: [batch, sequence], 1 for a token and 0 for padding, which is on the right or on the left.
        mode: ``mean`` over the tokens; ``cls``, the first token; ``lasttoken``; ``max`` over the tokens;
            ``mean_sqrt_len_tokens``, their sum divided by the square root of their number; ``weightedmean``, with the
            weights 1, 2, ... from the first token on; or several of them joined by ``+``, whose vectors are joined.

    Returns:
        [batch, hidden] for each mode, side by side, in the dtype of ``states``. A row without any token means nothing.

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
    # The running count is 1, 2, ... over the tokens, wherever the padding is.
    weights = (mask.cumsum(1) * mask if mode == "weightedmean" else mask).to(states.dtype)
    total = weights.sum(1).clamp(min=1e-9)
    return (states * weights).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


def _select(states: Tensor, attention_mask: Tensor, last: bool) -> Tensor:
    """The state of the first or the last token of each row."""
    sequence = states.shape[1]
    # The closer a token is to the end that is wanted, the higher it ranks; padding ranks below all.
    # In int32, since older releases of ONNX Runtime have no ArgMax of int64.
    ranks = torch.arange(1, sequence + 1, dtype=torch.int32, device=states.device)
    best = (attention_mask.int() * (ranks if last else ranks.flip(0))).argmax(1)
    return states[torch.arange(states.shape[0], device=states.device), best]
