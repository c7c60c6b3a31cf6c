"""ESE as published against slow versions of the authors' code and the paper's equations."""

import math

import pytest
import torch
from torch import Tensor

from ese_deploy.losses.published import align, layer_weight, paper_parts, project, reference_parts

K = 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objective(vectors: Tensor) -> Tensor:
    """A function that distinguishes layers and widths."""
    return (vectors**2).mean() * vectors.shape[1]


def literal_align(x: Tensor, y: Tensor, temperature: float) -> float:
    total = sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)) / x.numel()
    divergence = 0.0
    for row_x, row_y in zip(x.tolist(), y.tolist(), strict=True):
        z_x = sum(math.exp(a / temperature) for a in row_x)
        z_y = sum(math.exp(b / temperature) for b in row_y)
        for a, b in zip(row_x, row_y, strict=True):
            probability = math.exp(b / temperature) / z_y
            divergence += probability * (math.log(probability) - (a / temperature - math.log(z_x)))
    return total + temperature * divergence / len(x)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_align_is_mse_and_feature_kl(temperature: float) -> None:
    x, y = draw(5, K), draw(5, K, seed=1)
    assert align(x, y, temperature).item() == pytest.approx(literal_align(x, y, temperature), rel=1e-12)


def test_temperature_zero_removes_the_kl_term() -> None:
    x, y = draw(5, K), draw(5, K, seed=1)
    assert align(x, y, 0.0).item() == pytest.approx(((x - y) ** 2).mean().item())


def test_layer_weights_are_those_of_the_paper() -> None:
    table = [1, 0.5906, 0.4765, 0.4191, 0.3832, 0.3582, 0.3395, 0.3247, 0.3128, 0.3028, 0.2943]
    assert [round(layer_weight(place), 4) for place in range(1, 12)] == table


def test_the_target_comes_from_the_softmax_of_the_gram_matrix() -> None:
    x = draw(20, 8) * 0.3
    gram = torch.softmax(x.T @ x / math.sqrt(8), dim=-1)
    u, s, _ = torch.linalg.svd(gram)
    wanted = x @ u[:, :K] @ torch.diag(s[:K])
    assert torch.allclose(project(x, K, exact=True).abs(), wanted.abs())
    # The randomised decomposition agrees but for the signs, and draws alike for the same seed.
    assert torch.allclose(project(x, 8).abs(), (x @ u @ torch.diag(s)).abs(), atol=1e-6)
    assert torch.equal(project(x, K, seed=3), project(x, K, seed=3))


def test_decomposition_does_not_change_the_random_state() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    project(draw(20, 8), K)
    assert torch.equal(torch.rand(3), wanted)


def test_reference_has_the_authors_layers_and_weights() -> None:
    states = [draw(20, 8, seed=seed) * 0.3 for seed in range(6)]  # the embeddings and 5 layers
    n = 5
    full = objective(states[n]) + objective(states[n][:, :K]) + align(states[n][:, :K], project(states[n], K), 2.0)
    shallow = sum(
        (objective(states[i][:, :K]) + align(states[i][:, :K], project(states[i], K), 2.0)) / (1 + math.log(1 + i))
        for i in range(n - 1)
    ) / (n - 1)
    parts = reference_parts(states, objective, K, 2.0)
    assert list(parts) == ["express_full", "compress_full", "express_shallow", "compress_shallow"]
    assert sum(parts.values()).item() == pytest.approx((full + shallow).item(), rel=1e-10)


def test_reference_never_trains_the_last_layer_but_one() -> None:
    states = [draw(20, 8, seed=seed).requires_grad_() for seed in range(6)]
    sum(reference_parts(states, objective, K, 1.0).values()).backward()
    trained = [place for place, state in enumerate(states) if state.grad is not None and state.grad.any()]
    assert trained == [0, 1, 2, 3, 5]
    shallow = states[1].grad
    assert shallow is not None and not shallow[:, K:].any(), "shallow layers get the loss of the prefix alone"


def test_paper_is_its_equations() -> None:
    states = [draw(20, 8, seed=seed) * 0.3 for seed in range(1, 5)]
    n = 4
    express = objective(states[n - 1][:, :K]) + sum(
        objective(states[i - 1][:, :K]) / (1 + math.log(i)) for i in range(1, n)
    )
    compress = align(states[n - 1][:, :K], project(states[n - 1], K, exact=True)) + sum(
        align(states[i - 1][:, :K], project(states[i - 1], K, exact=True)) / (1 + math.log(i)) for i in range(1, n)
    )
    parts = paper_parts(states, objective, K)
    assert parts["express_full"] + parts["express_shallow"] == pytest.approx(express.item(), rel=1e-12)
    assert sum(parts.values()).item() == pytest.approx((express + compress).item(), rel=1e-10)


def test_no_gradient_reaches_the_target() -> None:
    x = draw(20, 8).requires_grad_()
    assert not project(x, K, exact=True).requires_grad
