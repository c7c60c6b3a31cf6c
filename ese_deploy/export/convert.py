"""Converting the traced graph to a dtype, once for all targets."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ese_deploy.bundle.manifest import Quantization
from ese_deploy.export.half import to_half
from ese_deploy.export.heads import absorb_heads
from ese_deploy.export.quantize import LEVELS, Activation, to_int8
from ese_deploy.target import DTYPES

__all__ = ["QuantizationSettings", "convert"]

_HALVES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


@dataclass(frozen=True)
class QuantizationSettings:
    """How int8 and int8-fp16 are made.

    Attributes:
        entry: the settings that the manifest lists.
        activations: for each value that enters a product, how it is quantized.
    """

    entry: Quantization
    activations: Mapping[str, Activation]


def convert(model: ir.Model, dtype: str, settings: QuantizationSettings | None = None) -> ir.Model:
    """Return the traced model in another dtype.

    Args:
        model: the traced model, in fp32; it is not changed.
        dtype: a key of :data:`ese_deploy.target.DTYPES`; outputs stay fp32.
        settings: how activations and weights are quantized; needed by dtypes that are quantized.
    """
    half = _HALVES.get(DTYPES[dtype].compute)
    if DTYPES[dtype].quantized:
        assert settings is not None
        model = to_int8(model, settings.activations, LEVELS[settings.entry.weight_bits], half=half is not None)
    return absorb_heads(model) if half is None else to_half(model, half)
