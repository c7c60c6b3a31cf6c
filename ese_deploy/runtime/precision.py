"""Vectors in fewer bits, as sentence-transformers defines them."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError

__all__ = ["PRECISIONS", "Precision", "check_precision", "needs_ranges", "quantize"]

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")

_STEPS = 255


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        InputError: it is not one of :data:`PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise InputError(f"Unknown precision '{precision}'. Choose one of: {', '.join(PRECISIONS)}.")


def needs_ranges(precision: str) -> bool:
    """Whether a precision needs the range of each component."""
    return precision in ("int8", "uint8")


def quantize(vectors: NDArray[np.float32], precision: str, ranges: NDArray[np.float32] | None = None) -> NDArray[Any]:
    """Quantize vectors as ``sentence_transformers.util.quantization.quantize_embeddings`` does.

    ``uint8`` is floor((x - lowest) * 255 / (highest - lowest)), clipped to 0 and 255; ``int8`` is that minus 128.
    ``ubinary`` keeps one bit per component, 1 if it is above 0, the first component in the highest bit of a byte;
    ``binary`` is that minus 128.

    Args:
        vectors: float32 [n, dim].
        precision: one of :data:`PRECISIONS`.
        ranges: float32 [2, dim], lowest and highest value of each component; for ``int8`` and ``uint8``.

    Returns:
        ``float32`` [n, dim], ``int8`` or ``uint8`` [n, dim], or for ``binary`` int8 and for ``ubinary`` uint8
        [n, ceil(dim / 8)].
    """
    if precision == "float32":
        return vectors
    quantized: NDArray[Any]
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        quantized = bits if precision == "ubinary" else (bits ^ np.uint8(128)).view(np.int8)
        return quantized
    if ranges is None:
        raise InputError(f"Precision '{precision}' needs `ranges`.")
    lowest = ranges[0]
    steps = (ranges[1] - lowest) / _STEPS
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((vectors - lowest) / steps), 0, _STEPS)
    quantized = levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)
    return quantized
