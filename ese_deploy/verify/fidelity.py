"""The quality check of int8: how close vectors are to fp32 on texts that were not used for calibration."""

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import Fidelity
from ese_deploy.evaluate.full_model import agreement, neighbour_overlap

__all__ = ["measure_fidelity"]

_NEIGHBOURS = 10
_DECIMALS = 6


def measure_fidelity(found: NDArray[np.float32], exact: NDArray[np.float32], data: str, data_sha256: str) -> Fidelity:
    """Compare a target's vectors with those of the same target in fp32.

    Args:
        found: [n, dim], rows of norm 1.
        exact: [n, dim], PyTorch's vectors of the same texts in fp32, rows of norm 1.
        data: name of the texts.
        data_sha256: their hash.
    """
    cosines = np.nan_to_num((found.astype(np.float64) * exact).sum(1), nan=-1.0)
    return Fidelity(
        data=data,
        data_sha256=data_sha256,
        n=len(found),
        cosine_mean=_round(cosines.mean()),
        cosine_p01=_round(np.percentile(cosines, 1)),
        agreement=_round(agreement(found, exact)),
        neighbour_overlap_at_10=_round(neighbour_overlap(found, exact, _NEIGHBOURS)),
    )


def _round(value: float | np.floating) -> float:
    return round(float(value), _DECIMALS)
