"""How far the vectors of a target may be from PyTorch's fp32 vectors, for each dtype, and which targets failed."""

from dataclasses import dataclass

from ese_deploy.bundle.manifest import Fidelity, TargetEntry

__all__ = [
    "MINIMUM_FIDELITY",
    "NORM_TOLERANCE",
    "TOLERANCES",
    "Tolerance",
    "failed_checks",
    "fidelity_failures",
]

NORM_TOLERANCE = 1e-5
"""Largest distance of a norm from 1. The final normalization is in fp32 for every dtype."""


@dataclass(frozen=True)
class Tolerance:
    """The limits of one dtype.

    Attributes:
        max_abs: largest difference of any component from PyTorch's.
        cosine_min: lowest cosine with PyTorch's vector.
        invariance: largest difference of a component between batch sizes, or with more padding.
        golden: largest difference from the golden vectors on another machine.
        recognised: minimum share of texts whose vector is nearest to PyTorch's vector of the same text.
    """

    max_abs: float
    cosine_min: float
    invariance: float
    golden: float
    recognised: float = 0.0


# Unit vectors with a cosine of 0.9995 are 0.032 apart, so that no component differs by more; with 0.998, 0.064.
_INT8 = Tolerance(max_abs=4.5e-1, cosine_min=0.9, invariance=2e-2, golden=4.5e-1, recognised=0.9)
TOLERANCES = {
    "fp32": Tolerance(max_abs=1e-5, cosine_min=0.999999, invariance=1e-5, golden=1e-5),
    # Edge-case texts such as "." are unlike the texts that int8 is calibrated on. What counts is that their vectors
    # are still the nearest to PyTorch's; the cosine that this takes depends on the model, and 0.9 is a lower limit.
    # For other texts MINIMUM_FIDELITY is stricter. Some edge cases have nearly equal vectors.
    "int8": _INT8,
    "int8-fp16": _INT8,
    "fp16": Tolerance(max_abs=3.2e-2, cosine_min=0.9995, invariance=1e-2, golden=3.2e-2),
    "bf16": Tolerance(max_abs=6.4e-2, cosine_min=0.998, invariance=3.2e-2, golden=6.4e-2),
}

MINIMUM_FIDELITY = {"cosine_mean": 0.99, "cosine_p01": 0.98, "agreement": 0.98, "neighbour_overlap_at_10": 0.85}
"""The minimum of each figure of :class:`ese_deploy.bundle.manifest.Fidelity`."""

_LABELS: dict[str, str] = {
    "cosine_mean": "mean cosine with fp32",
    "cosine_p01": "1st percentile of the cosines with fp32",
    "agreement": "agreement with fp32",
    "neighbour_overlap_at_10": "overlap of the 10 nearest neighbours with fp32's",
}


def fidelity_failures(fidelity: Fidelity) -> tuple[str, ...]:
    """A line for each figure below its minimum."""
    return tuple(
        f"{_LABELS[name]} {getattr(fidelity, name):.4f}, allowed {least}"
        for name, least in MINIMUM_FIDELITY.items()
        if not getattr(fidelity, name) >= least
    )


def failed_checks(entry: TargetEntry) -> tuple[str, ...]:
    """What a target failed at its export and was kept in spite of; empty for others.

    Returns:
        The engines on which it differs from PyTorch, and a line for each figure of the quality check.
    """
    engines = dict.fromkeys(parity.engine for parity in entry.parity if parity.passed is False)
    differs = tuple(f"it differs from PyTorch on {engine}" for engine in engines)
    return differs + (() if entry.fidelity is None else fidelity_failures(entry.fidelity))
