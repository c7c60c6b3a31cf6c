"""Vectors in fewer bits, with the meaning that sentence-transformers gives them."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError

__all__ = ["PRECISIONS", "Precision", "check_precision", "needs_ranges", "quantize"]

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")

_STEPS = 255


def check_precision(precision: str) -> None:
    """Refuse a precision that there is not.

    Raises:
        InputError: it is none of :data:`PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision '{precision}'; choose one of {', '.join(PRECISIONS)}")


def needs_ranges(precision: str) -> bool:
    """Whether a precision needs to know between which numbers each component lies."""
    return precision in ("int8", "uint8")


def quantize(vectors: NDArray[np.float32], precision: str, ranges: NDArray[np.float32] | None = None) -> NDArray[Any]:
    """Quantise vectors as ``sentence_transformers.util.quantization.quantize_embeddings`` does.

    ``uint8`` is floor((x - lowest) * 255 / (highest - lowest)), kept within 0 and 255; ``int8`` is 128 less.
    ``ubinary`` keeps a bit for each component, 1 where it is above 0, the first component in a byte's highest bit;
    ``binary`` is 128 less.

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
        raise InputError(f"precision '{precision}' needs ranges")
    lowest = ranges[0]
    steps = (ranges[1] - lowest) / _STEPS
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((vectors - lowest) / steps), 0, _STEPS)
    quantized = levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)
    return quantized
