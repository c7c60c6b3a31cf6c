"""A target: at which depth the model stops, how many dimensions it keeps, and in which dtype it computes."""

import re
from dataclasses import dataclass

from ese_deploy.errors import InputError

__all__ = ["CALIBRATED", "DTYPES", "MIN_DIM", "OPT_IN_DTYPES", "QUANTIZED", "Target", "default_dims", "parse_range"]

DTYPES = ("fp32", "fp16", "bf16", "int8", "int8-fp16", "int8-dynamic", "int8-weights")

CALIBRATED = frozenset({"int8", "int8-fp16"})
"""Dtypes whose activations are calibrated on texts."""

OPT_IN_DTYPES = frozenset({"int8-dynamic", "int8-weights"})
"""Dtypes that are taken only where they are named, and neither by default nor for a budget."""

QUANTIZED = CALIBRATED | OPT_IN_DTYPES
"""Dtypes of int8, whose targets held texts decide about: one that fails is left out of the bundle."""

# Below 8 dimensions rounding noise of 1e-7 grows to 1e-5 in the normalised vector: no gate could hold.
MIN_DIM = 8

_USUAL_DIMS = (16, 32, 64, 128, 256, 512, 768)
_TARGET = re.compile(r"(\d{1,4})x(\d{1,5})(?::([a-z0-9]+(?:-[a-z0-9]+)*))?", re.ASCII)


def default_dims(width: int) -> list[int]:
    """The prefixes that are trained and evaluated where none are named: 16, 32, 64 and so on, and the full width."""
    return [*(dim for dim in _USUAL_DIMS if dim < width), width]


@dataclass(frozen=True, order=True)
class Target:
    """One deployable size of a model.

    Attributes:
        depth: number of transformer blocks that run, from 1.
        dim: number of leading dimensions kept, at least 8.
        dtype: one of :data:`DTYPES`.

    Raises:
        InputError: a value is out of range.
    """

    depth: int
    dim: int
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise InputError(f"depth must be at least 1, got {self.depth} in target '{self}'")
        if self.dim < MIN_DIM:
            raise InputError(f"dim must be at least {MIN_DIM}, got {self.dim} in target '{self}'")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got '{self.dtype}'")

    def __str__(self) -> str:
        """The short form that :meth:`parse` reads: ``3x128``, or ``3x128:int8``."""
        suffix = "" if self.dtype == "fp32" else f":{self.dtype}"
        return f"{self.depth}x{self.dim}{suffix}"

    @property
    def name(self) -> str:
        """The name in the bundle, which is also the stem of the graph's file: ``d03_k128.fp32``."""
        return f"d{self.depth:02d}_k{self.dim:03d}.{self.dtype}"

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read ``DEPTHxDIM`` or ``DEPTHxDIM:DTYPE``.

        Raises:
            InputError: the text has another form, or a value is out of range.

        Example:
            >>> Target.parse("3x128:int8")
            Target(depth=3, dim=128, dtype='int8')
        """
        match = _TARGET.fullmatch(text.strip())
        if match is None:
            raise InputError(
                f"target '{text}' is not DEPTHxDIM or DEPTHxDIM:DTYPE; write for example 3x128 or 3x128:int8"
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
            raise InputError(
                f"{what} '{text}' is not a list of numbers and ranges; write for example 1-6 or 64,128,384"
            )
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise InputError(f"{what} '{text}' holds the range {first}-{last}, which runs backwards")
        numbers.extend(range(first, last + 1))
    return numbers
