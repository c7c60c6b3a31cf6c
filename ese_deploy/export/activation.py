"""Choosing how an activation is quantized, so that its products change least on a sample of tokens."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ese_deploy.export.quantize import Activation, round_columns

__all__ = ["MIGRATIONS", "RANGES", "choose_activation"]

MIGRATIONS = (0.0, 0.25, 0.5, 0.75)
"""Exponents to try: how much of a channel's range migrates from the activation to the weights; 0 is nothing."""

RANGES = (1.0, 0.8, 0.64, 0.5, 0.4, 0.3, 0.22, 0.16, 0.12)
"""Ends of the range to try, as shares of the largest value. Values beyond are clipped, others get finer steps."""

_LEVELS = 127
_LEAST = 1e-5

Matrix = NDArray[np.float32]


def choose_activation(
    sample: Matrix, weights: Sequence[Matrix], levels: int = _LEVELS, migrate: bool = True
) -> Activation:
    """Choose migration and range of one value.

    Migration is that of SmoothQuant (Xiao et al., 2023, equation 4): channel j of the activation is divided, and
    row j of the weights multiplied, by max|x_j|^a / max|w_j|^(1 - a).

    Args:
        sample: float32 [tokens, in].
        weights: of the products that the value enters, float32 [in, out] each.
        levels: the largest weight.
        migrate: try migration, which adds a product of [tokens, in] numbers to the graph.

    Returns:
        The choice with the smallest sum of |X W - Q(X) Q(W)|^2 / |X W|^2 over the products.
    """
    exact = [sample @ weight for weight in weights]
    # A weight or an activation of zeros has a norm of zero.
    norms = [float(np.square(product).sum()) or 1.0 for product in exact]
    best: tuple[float, Activation] | None = None
    for exponent in MIGRATIONS if migrate else MIGRATIONS[:1]:
        factors = None if exponent == 0 else _factors(sample, weights, exponent)
        moved = sample if factors is None else sample * factors
        rounded = [
            round_columns(weight if factors is None else weight / factors[:, None], levels) for weight in weights
        ]
        whole = [integers * scales for integers, scales in rounded]
        largest = float(np.abs(moved).max())
        for share in RANGES:
            scale = max(share * largest, _LEAST) / _LEVELS
            steps = np.clip(np.rint(moved / np.float32(scale)), -_LEVELS, _LEVELS) * np.float32(scale)
            error = sum(
                float(np.square(steps @ weight - product).sum()) / norm
                for weight, product, norm in zip(whole, exact, norms, strict=True)
            )
            if best is None or error < best[0]:
                best = (error, Activation(scale, factors))
    assert best is not None
    return best[1]


def _factors(sample: Matrix, weights: Sequence[Matrix], exponent: float) -> Matrix:
    """Factors for the channels of the activation, with a geometric mean of 1."""
    values = np.maximum(np.abs(sample).max(0), _LEAST)
    rows = np.maximum(np.max([np.abs(weight).max(1) for weight in weights], axis=0), _LEAST)
    factors = np.log(rows) * (1 - exponent) - np.log(values) * exponent
    moved: Matrix = np.exp(factors - factors.mean()).astype(np.float32)
    return moved
