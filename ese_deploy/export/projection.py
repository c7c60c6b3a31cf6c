"""From an exit's full vector to the components that a target keeps."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from ese_deploy.manifest import Calibration
from ese_deploy.pca import Pca

__all__ = ["PROJECTIONS", "Fitted", "Projection", "space"]

PROJECTIONS = ("prefix", "pca")


@dataclass(frozen=True)
class Fitted:
    """Projections that were fitted.

    Attributes:
        calibration: what on.
        pcas: for each exit its principal components.
    """

    calibration: Calibration
    pcas: Mapping[int, Pca]


class Projection(nn.Module):
    """Cuts the vectors of every exit to a target's components.

    Args:
        widest: for each exit the largest dim of its targets.
        pcas: for each exit its principal components; none of them for plain prefixes.
    """

    def __init__(self, widest: Mapping[int, int], pcas: Mapping[int, Pca]) -> None:
        super().__init__()
        for depth, pca in pcas.items():
            if depth in widest:
                self.register_buffer(f"components_{depth}", torch.from_numpy(pca.components[: widest[depth]].copy()))

    def forward(self, vectors: Tensor, depth: int, dim: int) -> Tensor:
        """Keep the first ``dim`` components and scale rows to norm 1.

        Args:
            vectors: [batch, width], of exit ``depth``.
            depth: the exit.
            dim: at most the exit's widest.

        Returns:
            [batch, dim].
        """
        components: Tensor | None = getattr(self, f"components_{depth}", None)
        # One matrix for all targets of the exit: each slices its rows, which engines do once, at loading.
        cut = vectors[:, :dim] if components is None else linear(vectors, components[:dim])
        return normalize(cut, dim=-1)


def space(depth: int, aligned: bool, calibration: Calibration | None = None) -> str:
    """Name of the space that the vectors of an exit lie in; exits that were trained to be aligned share one.

    Principal components are an exit's own, and those of the texts that they were fitted on.
    """
    if calibration is not None:
        return f"exit{depth:02d}.pca-{calibration.sha256[:8]}"
    return "aligned" if aligned else f"exit{depth:02d}"
