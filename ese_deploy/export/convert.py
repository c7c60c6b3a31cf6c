"""Applying a dtype to the traced graph, once for all targets."""

import onnx_ir as ir

from ese_deploy.errors import InputError

__all__ = ["CONVERTIBLE", "convert"]

CONVERTIBLE = ("fp32",)


def convert(model: ir.Model, dtype: str) -> ir.Model:
    """Return the traced model in another dtype.

    Args:
        model: the traced model, in fp32; it is not changed.
        dtype: the dtype of weights and computation; outputs stay fp32.

    Raises:
        InputError: there is no conversion to ``dtype``.
    """
    if dtype == "fp32":
        return model
    raise InputError(f"dtype '{dtype}' cannot be exported; choose one of {', '.join(CONVERTIBLE)}")
