"""How far a target may be from PyTorch in fp32, by its dtype."""

from dataclasses import dataclass

__all__ = ["NORM_TOLERANCE", "TOLERANCES", "Tolerance"]

NORM_TOLERANCE = 1e-5
"""Largest distance of a norm from 1; the final normalisation is in fp32 in every dtype."""


@dataclass(frozen=True)
class Tolerance:
    """What a target of one dtype must keep.

    Attributes:
        max_abs: largest difference of any component from PyTorch's.
        cosine_min: lowest cosine with PyTorch's vector.
        invariance: largest difference that the batch or padding may make.
        golden: largest difference from the golden vectors on another machine.
        recognised: least share of the texts whose vector is nearer to PyTorch's of that text than to any other's.
    """

    max_abs: float
    cosine_min: float
    invariance: float
    golden: float
    recognised: float = 0.0


# Two unit vectors of cosine 0.9995 are 0.032 apart, and so no component can differ by more; those of 0.998, 0.064.
_INT8 = Tolerance(max_abs=4.5e-1, cosine_min=0.9, invariance=2e-2, golden=4.5e-1, recognised=0.9)
TOLERANCES = {
    "fp32": Tolerance(max_abs=1e-5, cosine_min=0.999999, invariance=1e-5, golden=1e-5),
    # A text such as "." is unlike all that int8 is calibrated on. What counts is that its vector is still its own, and
    # how many dimensions and which model decide what cosine that takes; 0.9 is a floor. Of ordinary texts
    # verify/fidelity.py asks for more. Not all of the awkward ones differ by much: blanks, unknown characters.
    "int8": _INT8,
    "int8-fp16": _INT8,
    "fp16": Tolerance(max_abs=3.2e-2, cosine_min=0.9995, invariance=1e-2, golden=3.2e-2),
    "bf16": Tolerance(max_abs=6.4e-2, cosine_min=0.998, invariance=3.2e-2, golden=6.4e-2),
}
