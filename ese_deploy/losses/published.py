"""ESE as published (arXiv 2402.14776): the authors' code, and the equations of the paper."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, mse_loss, softmax

__all__ = ["align", "layer_weight", "paper_parts", "project", "reference_parts"]

Objective = Callable[[Tensor], Tensor]
"""From the vectors of all texts of the batch, float [n, k], to a scalar."""


def layer_weight(place: int) -> float:
    """1 / (1 + ln(place)) for place >= 1: 1, 0.5906, 0.4765, ..."""
    return 1 / (1 + math.log(place))


def project(vectors: Tensor, k: int, exact: bool = False, seed: int = 0) -> Tensor:
    """The published compression target.

    A = softmax(X^T X / sqrt(d)) by rows, A = U S V^T, target = X U[:, :k] S[:k]. The paper calls it PCA, but the data
    is neither centred nor divided by the batch size.

    Args:
        vectors: float [n, d], X.
        k: dimensions of the target, at most d.
        exact: use a full singular value decomposition, not the authors' randomised one (``svd_lowrank``).
        seed: seed of the randomised decomposition.

    Returns:
        [n, min(k, d)] without gradient. The signs of its columns are arbitrary.
    """
    with torch.no_grad():
        x = vectors.detach()
        k = min(k, x.shape[1])
        dependencies = softmax(x.T @ x / math.sqrt(x.shape[1]), dim=-1)
        if exact:
            u, s, _ = torch.linalg.svd(dependencies)
        else:
            # Every process, and a resumed run, must draw the same directions.
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.manual_seed(seed)
                u, s, _ = torch.svd_lowrank(dependencies, q=k)
        target: Tensor = x @ (u[:, :k] * s[:k])
    return target


def align(vectors: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean squared error, plus T KL(softmax(target / T) || softmax(vectors / T)) over the features.

    Args:
        vectors: float [n, k].
        target: float [n, k].
        temperature: T; 0 removes the KL term.
    """
    total = mse_loss(vectors, target)
    if temperature > 0:
        probabilities = softmax(target / temperature, dim=-1)
        total = total + temperature * kl_div(
            log_softmax(vectors / temperature, dim=-1), probabilities, reduction="batchmean"
        )
    return total


def reference_parts(
    states: Sequence[Tensor], objective: Objective, k: int, temperature: float, seed: int = 0
) -> dict[str, Tensor]:
    """The authors' code (angle.py of SeanLee97/AnglE 0.6.1), with the layers that it trains.

    With n layers: the full model at full width and at k, and the states 0 (the embeddings' output) to n - 2 at k only,
    with weights 1 / (1 + ln(1 + i)) / (n - 1). State n - 1 is never trained.

    Args:
        states: float [m, d] for the embeddings and each layer, without a final norm, not normalised.
        objective: the loss of AnglE.
        k: dimensions of the prefix.
        temperature: T of :func:`align`.
        seed: seed of the randomised decomposition.

    Returns:
        Scalars by name; their sum is the loss.
    """
    *shallow, full = states
    layers = len(shallow)
    parts = {
        "express_full": objective(full) + objective(full[:, :k]),
        "compress_full": align(full[:, :k], project(full, k, seed=seed), temperature),
    }
    if layers > 1:
        weights = [layer_weight(1 + place) / (layers - 1) for place in range(layers - 1)]
        parts["express_shallow"] = _weighted(weights, [objective(x[:, :k]) for x in shallow[:-1]])
        aligned = [align(x[:, :k], project(x, k, seed=seed), temperature) for x in shallow[:-1]]
        parts["compress_shallow"] = _weighted(weights, aligned)
    return parts


def paper_parts(states: Sequence[Tensor], objective: Objective, k: int) -> dict[str, Tensor]:
    """Equations 2 to 6 of the paper with alpha = beta = 1, the batch's Gram matrix and an exact decomposition.

    L_le = sum of w_i loss(X_i^k) + loss(X_n^k), L_lc likewise with :func:`align`, w_i = 1 / (1 + ln i), i = 1..n-1.

    Args:
        states: float [m, d] for each layer.
        objective: the loss of AnglE.
        k: dimensions of the prefix.

    Returns:
        Scalars by name; their sum is the loss.
    """
    *shallow, full = states
    weights = [layer_weight(1 + place) for place in range(len(shallow))]
    parts = {
        "express_full": objective(full[:, :k]),
        "compress_full": align(full[:, :k], project(full, k, exact=True)),
    }
    if shallow:
        parts["express_shallow"] = _weighted(weights, [objective(x[:, :k]) for x in shallow])
        aligned = [align(x[:, :k], project(x, k, exact=True)) for x in shallow]
        parts["compress_shallow"] = _weighted(weights, aligned)
    return parts


def _weighted(weights: Sequence[float], losses: Sequence[Tensor]) -> Tensor:
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
