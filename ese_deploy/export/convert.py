"""Applying a dtype to the traced graph, once for all targets."""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from ese_deploy.errors import InputError
from ese_deploy.export.half import to_half

__all__ = ["CONVERTIBLE", "convert"]

_CONVERSIONS: Mapping[str, Callable[[ir.Model], ir.Model]] = {
    "fp32": lambda model: model,
    "fp16": lambda model: to_half(model, ir.DataType.FLOAT16),
    "bf16": lambda model: to_half(model, ir.DataType.BFLOAT16),
}

CONVERTIBLE = tuple(_CONVERSIONS)


def convert(model: ir.Model, dtype: str) -> ir.Model:
    """Return the traced model in another dtype.

    Args:
        model: the traced model, in fp32; it is not changed.
        dtype: the dtype of weights and computation; outputs stay fp32.

    Raises:
        InputError: there is no conversion to ``dtype``.
    """
    if dtype not in _CONVERSIONS:
        raise InputError(f"dtype '{dtype}' cannot be exported; choose one of {', '.join(CONVERTIBLE)}")
    return _CONVERSIONS[dtype](model)
