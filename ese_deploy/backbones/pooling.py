"""From token states to one vector."""

from torch import Tensor

from ese_deploy.errors import InputError

__all__ = ["POOLINGS", "check_pooling", "pool"]

POOLINGS = ("mean", "cls")


def check_pooling(mode: str) -> str:
    """Return the mode.

    Raises:
        InputError: it is not supported.
    """
    if mode not in POOLINGS:
        raise InputError(f"pooling '{mode}' is not supported; supported are: {', '.join(POOLINGS)}")
    return mode


def pool(states: Tensor, attention_mask: Tensor, mode: str) -> Tensor:
    """Pool token states as sentence-transformers does.

    Args:
        states: [batch, sequence, hidden].
        attention_mask: [batch, sequence], 1 for a token and 0 for padding, which is on the right.
        mode: ``mean`` over the tokens, or ``cls``, the first token.

    Returns:
        [batch, hidden], in the dtype of ``states``. A row without any token gives zeros under ``mean``.

    Raises:
        InputError: the mode is not supported.
    """
    if check_pooling(mode) == "cls":
        return states[:, 0]
    weights = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
