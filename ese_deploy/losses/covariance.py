"""A running covariance, and the principal components that it gives."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["RunningCovariance"]


# Components change slowly, and finding them costs as the cube of the width.
_REFRESH_EVERY = 10


class RunningCovariance(nn.Module):
    """Mean and covariance of a stream of vectors, as exponential moving averages without start-up bias, in fp32.

    Args:
        width: dimensions of a vector.
        momentum: share of the past that one batch leaves, 0 to 1.

    Attributes:
        components: float32 [width, width], the principal components of the centred covariance, a column each, by
            falling variance; found anew in each of the first batches and in every tenth later.
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
        """Add a batch, float [n, width]; the same on every process."""
        x = vectors.detach().float()
        self.count += 1
        count = int(self.count)
        # The n-th batch counts 1 / n until that falls to 1 - momentum.
        share = max(1 / count, 1 - self.momentum)
        self.mean.lerp_(x.mean(0), share)
        self.second.lerp_(x.T @ x / len(x), share)
        if count < _REFRESH_EVERY or count % _REFRESH_EVERY == 0:
            covariance: Any = self.second - torch.outer(self.mean, self.mean)
            self.components.copy_(torch.linalg.eigh(covariance).eigenvectors.flip(1))
