"""Batches of texts of similar lengths, which need little padding."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["plan_batches"]


def plan_batches(lengths: NDArray[np.int64], batch_size: int, batch_tokens: int) -> list[NDArray[np.int64]]:
    """Sort by length, and start a new batch where the next row would exceed a limit.

    Args:
        lengths: tokens of each text, int64 [n].
        batch_size: most rows of a batch.
        batch_tokens: most tokens of a batch, padding included. A longer text becomes a batch of its own.

    Returns:
        Indices into ``lengths``, an array for each batch. The longest texts come first, so that a batch that does not
        fit into memory fails at the start.

    Example:
        >>> plan_batches(np.array([3, 9, 4, 8]), batch_size=8, batch_tokens=18)
        [array([1, 3]), array([2, 0])]
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        rows = max(1, min(batch_size, batch_tokens // longest))
        batches.append(order[start : start + rows])
        start += rows
    return batches
