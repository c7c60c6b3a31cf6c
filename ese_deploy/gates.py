"""How far a target may be from PyTorch in fp32, by its dtype."""

from dataclasses import dataclass

__all__ = ["GATES", "NORM_GATE", "Gate"]

NORM_GATE = 1e-5
"""Largest distance of a norm from 1; the final normalisation is in fp32 in every dtype."""


@dataclass(frozen=True)
class Gate:
    """What a target of one dtype must keep.

    Attributes:
        max_abs: largest difference of any component from PyTorch's.
        cosine_min: lowest cosine with PyTorch's vector.
        invariance: largest difference that the batch or padding may make.
        golden: largest difference from the golden vectors on another machine.
    """

    max_abs: float
    cosine_min: float
    invariance: float
    golden: float


# Two unit vectors of cosine 0.9995 are 0.032 apart, and so no component can differ by more; those of 0.998, 0.064.
_INT8 = Gate(max_abs=4.5e-1, cosine_min=0.9, invariance=2e-2, golden=4.5e-1)
GATES = {
    "fp32": Gate(max_abs=1e-5, cosine_min=0.999999, invariance=1e-5, golden=1e-5),
    # The awkward texts are unlike those that int8 is calibrated on; of ordinary ones verify/fidelity.py asks for more.
    "int8": _INT8,
    "int8-fp16": _INT8,
    "fp16": Gate(max_abs=3.2e-2, cosine_min=0.9995, invariance=1e-2, golden=3.2e-2),
    "bf16": Gate(max_abs=6.4e-2, cosine_min=0.998, invariance=3.2e-2, golden=6.4e-2),
}
