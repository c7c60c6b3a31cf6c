"""AnglE's losses against slow literal versions of their formulas, in float64."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from ese_deploy.errors import InputError
from ese_deploy.losses.angle import angle_loss, contrastive_loss, cosent_loss, cosine_loss, in_batch_negative_loss
from ese_deploy.losses.objective import AngleObjective, angle_objective


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal_cosent(scores: list[float], labels: list[float]) -> float:
    total = 1.0
    for (s_a, y_a), (s_b, y_b) in itertools.product(zip(scores, labels, strict=True), repeat=2):
        if y_a < y_b:
            total += math.exp(s_a - s_b)
    return math.log(total)


def cosine(u: list[float], v: list[float]) -> float:
    return sum(a * b for a, b in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v))


def literal_angle_score(u: list[float], v: list[float], tau: float) -> float:
    """Divide the complex vectors, scale the quotient to norm 1 and sum real and imaginary parts."""
    half = len(u) // 2
    real, imaginary = 0.0, 0.0
    for place in range(half):
        quotient = complex(u[place], u[half + place]) * complex(v[place], -v[half + place])
        real, imaginary = real + quotient.real, imaginary + quotient.imag
    return tau * abs(real + imaginary) / (math.hypot(*u) * math.hypot(*v))


def literal_contrastive(queries: list[list[float]], candidates: list[list[float]], tau: float) -> float:
    losses = []
    for place, query in enumerate(queries):
        scores = [math.exp(tau * cosine(query, candidate)) for candidate in candidates]
        losses.append(-math.log(scores[place] / sum(scores)))
    return sum(losses) / len(losses)


def literal_in_batch(first: list[list[float]], second: list[list[float]], labels: list[float], tau: float) -> float:
    texts = [text for pair in zip(first, second, strict=True) for text in pair]
    whole = [int(label) for label in labels for _ in range(2)]
    total = 0.0
    for i, text in enumerate(texts):
        scores = {j: math.exp(tau * cosine(text, other)) for j, other in enumerate(texts) if j != i}
        partner = i + 1 if i % 2 == 0 else i - 1
        for j, score in scores.items():
            if whole[i] and whole[j] and j * whole[j] == partner * whole[i]:
                total -= math.log(score / sum(scores.values()))
    return total / len(texts)


LABELS = torch.tensor([0.2, 0.9, 0.5, 0.9, 0.2, 0.0], dtype=torch.float64)


def test_cosine_loss_is_its_formula() -> None:
    u, v = draw(6, 8), draw(6, 8, seed=1)
    scores = [20 * cosine(a, b) for a, b in zip(u.tolist(), v.tolist(), strict=True)]
    assert cosine_loss(u, v, LABELS).item() == pytest.approx(literal_cosent(scores, LABELS.tolist()), rel=1e-12)


@pytest.mark.parametrize("width", [8, 7])
def test_angle_loss_is_the_quotient_of_complex_numbers(width: int) -> None:
    u, v = draw(6, width), draw(6, width, seed=1)
    padded = [[*row, *[0.0] * (width % 2)] for row in u.tolist()], [[*row, *[0.0] * (width % 2)] for row in v.tolist()]
    scores = [literal_angle_score(a, b, 20.0) for a, b in zip(*padded, strict=True)]
    assert angle_loss(u, v, LABELS).item() == pytest.approx(literal_cosent(scores, LABELS.tolist()), rel=1e-12)


def test_cosent_of_equal_labels_is_zero_and_has_no_gradient() -> None:
    scores = draw(5).requires_grad_()
    loss = cosent_loss(scores, torch.ones(5))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None and not scores.grad.any()


@pytest.mark.parametrize("labels", [[1, 1, 0, 1], [1, 0.4, 0, 1], [1, 1, 1, 1]])
def test_in_batch_negatives_are_their_formula(labels: list[float]) -> None:
    u, v = draw(4, 8), draw(4, 8, seed=1)
    wanted = literal_in_batch(u.tolist(), v.tolist(), labels, 20.0)
    assert in_batch_negative_loss(u, v, torch.tensor(labels)).item() == pytest.approx(wanted, rel=1e-12)


def test_contrastive_loss_is_its_formula_with_and_without_hard_negatives() -> None:
    q, p, n = draw(4, 8), draw(4, 8, seed=1), draw(4, 8, seed=2)
    assert contrastive_loss(q, p).item() == pytest.approx(literal_contrastive(q.tolist(), p.tolist(), 20.0), rel=1e-12)
    wanted = literal_contrastive(q.tolist(), [*p.tolist(), *n.tolist()], 20.0)
    assert contrastive_loss(q, torch.cat([p, n])).item() == pytest.approx(wanted, rel=1e-12)


def test_gradients_are_right() -> None:
    u, v = draw(4, 6).requires_grad_(), draw(4, 6, seed=1).requires_grad_()
    labels, whole = LABELS[:4], torch.tensor([1, 0, 1, 1])
    assert torch.autograd.gradcheck(lambda a, b: cosine_loss(a, b, labels, 2.0), (u, v))
    assert torch.autograd.gradcheck(lambda a, b: angle_loss(a, b, labels, 2.0), (u, v))
    assert torch.autograd.gradcheck(lambda a, b: in_batch_negative_loss(a, b, whole, 2.0), (u, v))
    assert torch.autograd.gradcheck(lambda a, b: contrastive_loss(a, b, 2.0), (u, v))


WEIGHTS = {"cosine_w": 0.7, "ibn_w": 3.0, "cln_w": 2.0, "angle_w": 0.5}


def test_format_a_weighs_three_losses() -> None:
    u, v = draw(6, 8), draw(6, 8, seed=1)
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0], [1.0], [1.0]])
    flat = labels.reshape(-1)
    wanted = 0.7 * cosine_loss(u, v, flat) + 3 * in_batch_negative_loss(u, v, flat) + 0.5 * angle_loss(u, v, flat)
    assert angle_objective(AngleObjective(**WEIGHTS), [u, v], labels).item() == pytest.approx(wanted.item())


def test_format_b_ignores_all_weights() -> None:
    q, p = draw(4, 8), draw(4, 8, seed=1)
    assert angle_objective(AngleObjective(**WEIGHTS), [q, p]).item() == contrastive_loss(q, p).item()


@pytest.mark.parametrize("version", ["0.6", "paper"])
def test_format_c_depends_on_the_loss_version(version: str) -> None:
    q, p, n = draw(4, 8), draw(4, 8, seed=1), draw(4, 8, seed=2)
    easy, hard = contrastive_loss(q, p), contrastive_loss(q, torch.cat([p, n]))
    contrast = (3 * easy + 2 * hard) / 2 if version == "0.6" else 3 * hard
    u, v, labels = torch.cat([q, q]), torch.cat([p, n]), torch.tensor([1] * 4 + [0] * 4)
    wanted = contrast + 0.5 * angle_loss(u, v, labels) + 0.7 * cosine_loss(u, v, labels)
    objective = AngleObjective(**WEIGHTS, loss_version=version)
    assert angle_objective(objective, [q, p, n]).item() == pytest.approx(wanted.item(), rel=1e-12)


def test_false_negatives_leave_the_row_and_the_positive_stays() -> None:
    """Rows 0 and 2 share a query; candidate 1 is the text of query 3; negative 0 is the positive of row 1."""
    q, p, n = draw(4, 8), draw(4, 8, seed=1), draw(4, 8, seed=2)
    keys = [torch.tensor([10, 11, 10, 13]), torch.tensor([20, 13, 22, 23]), torch.tensor([13, 31, 32, 33])]
    objective = AngleObjective(angle_w=0, ibn_w=0, cln_w=2)
    kept = {
        0: [0, 1, 3, 4, 5, 6, 7],
        1: [0, 1, 2, 3, 5, 6, 7],
        2: [1, 2, 3, 4, 5, 6, 7],
        3: [0, 2, 3, 5, 6, 7],
    }
    candidates = torch.cat([p, n]).tolist()
    total = 0.0
    for row, columns in kept.items():
        scores = {j: math.exp(20 * cosine(q[row].tolist(), candidates[j])) for j in columns}
        total -= math.log(scores[row] / sum(scores.values()))
    assert angle_objective(objective, [q, p, n], keys=keys).item() == pytest.approx(total / 4, rel=1e-12)
    unmasked = AngleObjective(angle_w=0, ibn_w=0, cln_w=2, mask_false_negatives=False)
    assert angle_objective(unmasked, [q, p, n], keys=keys).item() == pytest.approx(
        contrastive_loss(q, torch.cat([p, n])).item(), rel=1e-12
    )


def test_unknown_formats_are_errors() -> None:
    with pytest.raises(InputError, match="Got 1 column"):
        angle_objective(AngleObjective(), [draw(4, 8)])
    with pytest.raises(InputError, match=r"Unknown loss_version '0\.5'\. Choose one of: 0\.6, paper"):
        AngleObjective(loss_version="0.5")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ibn_tau is 0"):
        AngleObjective(ibn_tau=0)
