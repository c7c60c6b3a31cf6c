"""The quality check of int8: how close vectors are to fp32 on texts that were not used for calibration."""

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import Fidelity
from ese_deploy.evaluate.full_model import agreement, neighbour_overlap

__all__ = ["MINIMUM_FIDELITY", "fidelity_failures", "measure_fidelity"]

_NEIGHBOURS = 10
_DECIMALS = 6

MINIMUM_FIDELITY = {"cosine_mean": 0.99, "cosine_p01": 0.98, "agreement": 0.98, "neighbour_overlap_at_10": 0.85}
"""The minimum of each figure of :class:`ese_deploy.bundle.manifest.Fidelity`."""

_LABELS: dict[str, str] = {
    "cosine_mean": "mean cosine with fp32",
    "cosine_p01": "1st percentile of the cosines with fp32",
    "agreement": "agreement with fp32",
    "neighbour_overlap_at_10": "overlap of the 10 nearest neighbours with fp32's",
}


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


def fidelity_failures(fidelity: Fidelity) -> tuple[str, ...]:
    """A line for each figure below its minimum."""
    return tuple(
        f"{_LABELS[name]} {getattr(fidelity, name):.4f}, allowed {least}"
        for name, least in MINIMUM_FIDELITY.items()
        if not getattr(fidelity, name) >= least
    )


def _round(value: float | np.floating) -> float:
    return round(float(value), _DECIMALS)
