"""Gathers rows from all processes, with gradient."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather", "world_size"]


def world_size() -> int:
    """Number of processes that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes by rank. Processes may have different numbers of rows.

    The gradient of a row is the sum over all processes. If all of them compute the same loss of the gathered batch,
    DistributedDataParallel's mean of gradients is then the gradient of that loss.

    Args:
        rows: [n, ...], the rows of this process.

    Returns:
        [sum of n, ...]; ``rows`` itself in a single process.
    """
    if world_size() == 1:
        return rows
    joined: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return joined


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        count = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.empty_like(count) for _ in range(world_size())]
        dist.all_gather(counts, count)
        sizes = [int(size) for size in counts]
        ctx.start, ctx.count = sum(sizes[: dist.get_rank()]), len(rows)
        # all_gather needs equal shapes.
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count]
