"""Checking what an inference engine returns."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import EngineError

__all__ = ["check_vectors", "unchecked_vectors"]

# Graphs normalize in fp32. An engine that computes everything in bf16 has 8 significant bits.
_TOLERANCE = 1e-3
_TOLERANCE_BF16 = 2e-2


_unchecked: ContextVar[bool] = ContextVar("unchecked", default=False)


@contextmanager
def unchecked_vectors() -> Iterator[None]:
    """Within the block, return what the engine gives: verification measures and reports what is wrong with it."""
    token = _unchecked.set(True)
    try:
        yield
    finally:
        _unchecked.reset(token)


def check_vectors(vectors: NDArray[Any], count: int, dim: int, engine: str, *, bf16: bool = False) -> None:
    """Check the vectors of a batch.

    Args:
        vectors: what the engine returned.
        count: texts of the batch.
        dim: dimensions of the target.
        engine: the engine's name, for the message.
        bf16: whether the engine rounds results to bf16.

    Raises:
        EngineError: the shape is not [count, dim], a component is not finite, or a norm is not 1.
    """
    if vectors.shape != (count, dim) or vectors.dtype != np.float32:
        raise EngineError(
            f"Engine '{engine}' returned {vectors.dtype} of shape {list(vectors.shape)} for {count} texts of {dim} "
            "dimensions. Export the bundle again, or choose another engine."
        )
    if _unchecked.get():
        return
    # Infinite and NaN components have no norm near 1 either.
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    near = np.abs(squares - 1) <= 2 * (_TOLERANCE_BF16 if bf16 else _TOLERANCE)
    if not near.all():
        worst = float(np.sqrt(squares[int(np.argmin(near))]))
        raise EngineError(
            f"Engine '{engine}' returned a vector of norm {worst:.4g}, and vectors have norm 1. Run ese-deploy doctor "
            "on the bundle, export it again, or choose another engine."
        )
