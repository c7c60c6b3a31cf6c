"""Applying a dtype to the traced graph, once for all targets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ese_deploy.errors import InputError
from ese_deploy.export.half import to_half
from ese_deploy.export.heads import absorb_heads
from ese_deploy.export.quantize import LEVELS, Activation, to_int8
from ese_deploy.manifest import Quantization
from ese_deploy.target import CALIBRATED

__all__ = ["CONVERTIBLE", "Recipe", "convert"]

_CONVERSIONS: Mapping[str, Callable[[ir.Model], ir.Model]] = {
    "fp32": absorb_heads,
    "fp16": lambda model: to_half(model, ir.DataType.FLOAT16),
    "bf16": lambda model: to_half(model, ir.DataType.BFLOAT16),
}

CONVERTIBLE = (*_CONVERSIONS, *sorted(CALIBRATED))


@dataclass(frozen=True)
class Recipe:
    """How int8 is made.

    Attributes:
        entry: what the manifest says of it.
        activations: for each value that enters a product how it is quantised.
    """

    entry: Quantization
    activations: Mapping[str, Activation]


def convert(model: ir.Model, dtype: str, recipe: Recipe | None = None) -> ir.Model:
    """Return the traced model in another dtype.

    Args:
        model: the traced model, in fp32; it is not changed.
        dtype: the dtype of weights and computation; outputs stay fp32.
        recipe: how activations are quantised; for ``int8`` and ``int8-fp16``.

    Raises:
        InputError: there is no conversion to ``dtype``.
    """
    if dtype in CALIBRATED and recipe is not None:
        mixed = dtype == "int8-fp16"
        quantised = to_int8(model, recipe.activations, LEVELS[recipe.entry.weight_bits], half=mixed)
        return to_half(quantised, ir.DataType.FLOAT16) if mixed else absorb_heads(quantised)
    if dtype not in _CONVERSIONS:
        raise InputError(f"dtype '{dtype}' cannot be exported; choose one of {', '.join(CONVERTIBLE)}")
    return _CONVERSIONS[dtype](model)
