"""The error for a batch that does not fit into the GPU's memory."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import EngineError

__all__ = ["explain_out_of_memory"]

Batch = Mapping[str, NDArray[np.int64]]


def explain_out_of_memory(inputs: Batch, run: Callable[[Batch], object]) -> EngineError:
    """Find a batch size that fits, by running halves, quarters and so on of the batch.

    Args:
        inputs: the batch that does not fit.
        run: runs a batch, and raises an exception if it does not fit.

    Returns:
        The error to raise.
    """
    rows, length = next(iter(inputs.values())).shape
    fitting = rows // 2
    while fitting and not _fits({name: array[:fitting] for name, array in inputs.items()}, run):
        fitting //= 2
    problem = f"A batch of {rows} texts of {length} tokens does not fit into the GPU's memory"
    if not fitting:
        return EngineError(f"{problem}, nor does a single text of that length. Use a smaller target or a larger GPU.")
    advice = f"Set `batch_size={fitting}` or `batch_tokens={fitting * length}`."
    return EngineError(f"{problem}, but {fitting} such texts fit. {advice}")


def _fits(batch: Batch, run: Callable[[Batch], object]) -> bool:
    try:
        run(batch)
    except Exception:
        return False
    return True
