"""From an exit's full vector to the prefix that a target keeps."""

from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["PROJECTIONS", "project", "space"]

PROJECTIONS = ("prefix",)


def project(vectors: Tensor, dim: int) -> Tensor:
    """Keep the first ``dim`` components and scale rows to norm 1.

    Args:
        vectors: [batch, width].
        dim: at most width.

    Returns:
        [batch, dim].
    """
    return normalize(vectors[:, :dim], dim=-1)


def space(depth: int, aligned: bool) -> str:
    """Name of the space that the prefixes of an exit lie in; exits that were trained to be aligned share one."""
    return "aligned" if aligned else f"exit{depth:02d}"
