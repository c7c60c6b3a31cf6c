"""A running covariance and its principal components."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RunningCovariance"]


# The components change slowly, and the decomposition is O(width^3).
_REFRESH_EVERY = 10


class RunningCovariance(nn.Module):
    """Exponential moving averages of mean and covariance without start-up bias, in fp32.

    Args:
        width: dimensions of a vector.
        momentum: weight of earlier batches, 0 to 1.

    Attributes:
        components: float32 [width, width], the principal components of the centred covariance as columns, by falling
            variance; updated in each of the first batches and in every tenth batch later.
    """

    count: Tensor
    mean: Tensor
    second: Tensor
    components: Tensor

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("second", torch.zeros(width, width))
        self.register_buffer("components", torch.eye(width))

    @torch.no_grad()
    def update(self, vectors: Tensor) -> None:
        """Add a batch, float [n, width]; it must be the same on every process."""
        x = vectors.detach().float()
        self.count += 1
        count = int(self.count)
        # The n-th batch has weight 1 / n until that falls to 1 - momentum.
        share = max(1 / count, 1 - self.momentum)
        self.mean.lerp_(x.mean(0), share)
        self.second.lerp_(x.T @ x / len(x), share)
        if count < _REFRESH_EVERY or count % _REFRESH_EVERY == 0:
            covariance: Any = self.second - torch.outer(self.mean, self.mean)
            self.components.copy_(torch.linalg.eigh(covariance).eigenvectors.flip(1))
