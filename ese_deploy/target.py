"""A target: the depth, the number of dimensions and the dtype of one deployable graph."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ese_deploy.errors import InputError

__all__ = ["DTYPES", "MIN_DIM", "Dtype", "Target", "default_dims", "parse_range"]


@dataclass(frozen=True)
class Dtype:
    """What a dtype of targets means.

    Attributes:
        compute: the float dtype of everything that is not a quantized product: ``fp32``, ``fp16`` or ``bf16``.
        quantized: whether products with weights are of int8, with scales that are calibrated on texts. The export
            leaves out a quantized target that fails its quality check; any other that fails stops the export.
        minimum_opset: the first ONNX opset that can express it.
    """

    compute: str
    quantized: bool = False
    minimum_opset: int = 18


DTYPES: Mapping[str, Dtype] = {
    "fp32": Dtype("fp32"),
    "fp16": Dtype("fp16"),
    "bf16": Dtype("bf16"),
    "int8": Dtype("fp32", quantized=True),
    # Since opset 19 the scales of QuantizeLinear can be fp16.
    "int8-fp16": Dtype("fp16", quantized=True, minimum_opset=19),
}

_REMOVED_DTYPES = ("int8-dynamic", "int8-weights")

# With fewer dimensions, normalisation amplifies rounding errors of 1e-7 to 1e-5, the tolerance of fp32.
MIN_DIM = 8

_DEFAULT_DIMS = (16, 32, 64, 128, 256, 512, 768)
_TARGET = re.compile(r"(\d{1,4})x(\d{1,5})(?::([a-z0-9]+(?:-[a-z0-9]+)*))?", re.ASCII)


def default_dims(width: int) -> list[int]:
    """The prefixes to train and evaluate by default: 16, 32, 64 and so on, and the full width."""
    return [*(dim for dim in _DEFAULT_DIMS if dim < width), width]


@dataclass(frozen=True, order=True)
class Target:
    """One deployable size of a model.

    Attributes:
        depth: number of transformer layers that run; 0 for a lookup of token vectors.
        dim: number of leading dimensions that are kept, at least 8.
        dtype: a key of :data:`DTYPES`.

    Raises:
        InputError: a value is out of range.
    """

    depth: int
    dim: int
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise InputError(f"Target '{self}' has depth {self.depth}. Choose a depth of at least 0.")
        if self.dim < MIN_DIM:
            raise InputError(f"Target '{self}' has {self.dim} dimensions. Choose at least {MIN_DIM}.")
        if self.dtype not in DTYPES:
            removed = self.dtype in _REMOVED_DTYPES
            problem = f"Dtype '{self.dtype}' is no longer supported" if removed else f"Unknown dtype '{self.dtype}'"
            raise InputError(f"{problem}. Choose one of: {', '.join(DTYPES)}.")

    def __str__(self) -> str:
        """The short form that :meth:`parse` reads: ``3x128``, or ``3x128:int8``."""
        suffix = "" if self.dtype == "fp32" else f":{self.dtype}"
        return f"{self.depth}x{self.dim}{suffix}"

    @property
    def name(self) -> str:
        """The name in the bundle, which is also the stem of the graph's file: ``d03_k128.fp32``."""
        return f"d{self.depth:02d}_k{self.dim:03d}.{self.dtype}"

    @classmethod
    def parse(cls, text: "str | Target") -> "Target":
        """Read ``DEPTHxDIM`` or ``DEPTHxDIM:DTYPE``; a target is returned as it is.

        Raises:
            InputError: the text has another form, or a value is out of range.

        Example:
            >>> Target.parse("3x128:int8")
            Target(depth=3, dim=128, dtype='int8')
        """
        if isinstance(text, Target):
            return text
        match = _TARGET.fullmatch(text.strip())
        if match is None:
            raise InputError(
                f"Target '{text}' is not DEPTHxDIM or DEPTHxDIM:DTYPE. Write for example 3x128 or 3x128:int8."
            )
        depth, dim, dtype = match.groups()
        return cls(int(depth), int(dim), dtype or "fp32")


def parse_range(text: str, what: str) -> list[int]:
    """Read a list of whole numbers and ranges, such as ``1-3,6`` for 1, 2, 3 and 6.

    Args:
        text: the list.
        what: what the numbers are, for the error message.

    Raises:
        InputError: an item is neither a number nor a range, or a range runs backwards.
    """
    numbers: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", item, re.ASCII)
        if match is None:
            raise InputError(f"{what} '{text}' is not a list of numbers and ranges. Write for example 1-6 or 64,128.")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise InputError(f"{what} '{text}' contains the range {first}-{last}, which runs backwards.")
        numbers.extend(range(first, last + 1))
    return numbers
