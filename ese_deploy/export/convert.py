"""Applying a dtype to the traced graph, once for all targets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ese_deploy.bundle.manifest import Quantization
from ese_deploy.errors import InputError
from ese_deploy.export.half import to_half
from ese_deploy.export.heads import absorb_heads
from ese_deploy.export.quantize import LEVELS, Activation, to_dynamic_int8, to_int8, to_int8_weights
from ese_deploy.target import CALIBRATED

__all__ = ["CONVERTIBLE", "Recipe", "convert"]

_CONVERSIONS: Mapping[str, Callable[[ir.Model], ir.Model]] = {
    "fp32": absorb_heads,
    "fp16": lambda model: to_half(model, ir.DataType.FLOAT16),
    "bf16": lambda model: to_half(model, ir.DataType.BFLOAT16),
    "int8-weights": lambda model: absorb_heads(to_int8_weights(model)),
}

CONVERTIBLE = ("fp32", "fp16", "bf16", "int8", "int8-fp16", "int8-dynamic", "int8-weights")


@dataclass(frozen=True)
class Recipe:
    """How int8, int8-fp16 and int8-dynamic are made.

    Attributes:
        entry: what the manifest says of it.
        activations: for each value that enters a product how it is quantised; empty where no target wants them.
    """

    entry: Quantization
    activations: Mapping[str, Activation]


def convert(model: ir.Model, dtype: str, recipe: Recipe | None = None) -> ir.Model:
    """Return the traced model in another dtype.

    Args:
        model: the traced model, in fp32; it is not changed.
        dtype: the dtype of weights and computation; outputs stay fp32.
        recipe: how activations and weights are quantised; for ``int8``, ``int8-fp16`` and ``int8-dynamic``.

    Raises:
        InputError: there is no conversion to ``dtype``.
    """
    if dtype in CALIBRATED and recipe is not None:
        mixed = dtype == "int8-fp16"
        quantised = to_int8(model, recipe.activations, LEVELS[recipe.entry.weight_bits], half=mixed)
        return to_half(quantised, ir.DataType.FLOAT16) if mixed else absorb_heads(quantised)
    if dtype == "int8-dynamic" and recipe is not None:
        return absorb_heads(to_dynamic_int8(model, LEVELS[recipe.entry.weight_bits]))
    if dtype not in _CONVERSIONS:
        raise InputError(f"dtype '{dtype}' cannot be exported; choose one of {', '.join(CONVERTIBLE)}")
    return _CONVERSIONS[dtype](model)
