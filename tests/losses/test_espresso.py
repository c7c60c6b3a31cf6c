"""The default variant against slow versions of its formulas, and its invariances."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ese_deploy.errors import InputError
from ese_deploy.losses.covariance import RunningCovariance
from ese_deploy.losses.espresso import EspressoSettings, Targets, espresso_parts, similarity_kl

SETTINGS = EspressoSettings(hold_w=0.5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(draw(width, width, seed=9)).Q


def literal_kl(vectors: Tensor, targets: Tensor, temperature: float) -> float:
    def neighbours(rows: list[list[float]], i: int) -> list[float]:
        cosines = [
            sum(a * b for a, b in zip(rows[i], row, strict=True)) / (math.hypot(*rows[i]) * math.hypot(*row))
            for j, row in enumerate(rows)
            if j != i
        ]
        weights = [math.exp(temperature * cosine) for cosine in cosines]
        return [weight / sum(weights) for weight in weights]

    total = 0.0
    for i in range(len(vectors)):
        wanted, got = neighbours(targets.tolist(), i), neighbours(vectors.tolist(), i)
        total += sum(p * math.log(p / q) for p, q in zip(wanted, got, strict=True))
    return total / len(vectors)


def test_similarity_kl_is_its_formula() -> None:
    assert similarity_kl(draw(6, 4), draw(6, 8, seed=1), 5.0).item() == pytest.approx(
        literal_kl(draw(6, 4), draw(6, 8, seed=1), 5.0), rel=1e-10
    )


def test_gradients_are_right() -> None:
    vectors = draw(5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: similarity_kl(x, draw(5, 8, seed=1), 3.0), (vectors,))


def test_single_text_gives_zero() -> None:
    assert similarity_kl(draw(1, 4), draw(1, 8), 20.0).item() == 0


def parts_of(exits: dict[int, Tensor], teacher: Tensor, settings: EspressoSettings = SETTINGS) -> dict[str, float]:
    components = torch.linalg.eigh(torch.cov(teacher.T)).eigenvectors.flip(1)
    parts = espresso_parts(exits, [(1, 4), (1, 8), (2, 4)], Targets(teacher, components), settings, None)
    return {name: part.item() for name, part in parts.items()}


def test_loss_does_not_depend_on_rotations_or_signs() -> None:
    teacher, shallow = draw(12, 8), draw(12, 8, seed=1)
    blocks = torch.block_diag(rotation(4), rotation(4))  # keeps every trained prefix
    plain = parts_of({1: shallow, 2: teacher}, teacher)
    rotated = parts_of({1: shallow @ blocks, 2: teacher}, teacher)
    assert plain == pytest.approx(rotated)
    components = torch.linalg.eigh(torch.cov(teacher.T)).eigenvectors.flip(1)
    flipped = components * torch.tensor([1, -1] * 4)
    for basis in (components, flipped):
        found = espresso_parts({1: shallow, 2: teacher}, [(1, 4)], Targets(teacher, basis), SETTINGS, None)
        assert found["compress"].item() == pytest.approx(
            similarity_kl(shallow[:, :4], teacher / teacher.norm(dim=1, keepdim=True) @ components[:, :4], 20.0).item()
        )


def test_hold_is_zero_for_an_unchanged_full_model() -> None:
    teacher = draw(12, 8)
    assert parts_of({1: draw(12, 8, seed=1), 2: teacher}, teacher)["hold"] == pytest.approx(0, abs=1e-12)
    moved = parts_of({1: draw(12, 8, seed=1), 2: teacher @ rotation(8)}, teacher)
    assert moved["hold"] > 0.1, "a rotation keeps all similarities, but makes earlier vectors unusable"


def test_exits_have_equal_weight() -> None:
    teacher, shallow = draw(12, 8), draw(12, 8, seed=1)
    deep = parts_of({1: teacher, 2: shallow}, shallow)
    assert deep["distill"] > 0
    cells = [(1, 8), (2, 8)]
    one = espresso_parts(
        {1: teacher, 2: shallow, 3: draw(12, 8)},
        cells,
        Targets(draw(12, 8), torch.eye(8, dtype=torch.float64)),
        SETTINGS,
        None,
    )
    two = espresso_parts(
        {1: shallow, 2: teacher, 3: draw(12, 8)},
        cells,
        Targets(draw(12, 8), torch.eye(8, dtype=torch.float64)),
        SETTINGS,
        None,
    )
    assert one["distill"].item() == pytest.approx(two["distill"].item())


def test_objective_gets_the_full_model_and_every_cell() -> None:
    seen: list[tuple[int, ...]] = []

    def objective(vectors: Tensor) -> Tensor:
        seen.append(tuple(vectors.shape))
        return vectors.sum()

    exits = {1: draw(6, 8), 2: draw(6, 8, seed=1)}
    parts = espresso_parts(
        exits, [(1, 4), (2, 4)], Targets(draw(6, 8), torch.eye(8, dtype=torch.float64)), SETTINGS, objective
    )
    assert seen == [(6, 8), (6, 4), (6, 4)]
    wanted = (exits[2].sum() + exits[1][:, :4].sum() + exits[2][:, :4].sum()) / 3
    assert parts["express"].item() == pytest.approx(SETTINGS.express_w * wanted.item())
    without = replace(SETTINGS, express_w=0.0, hold_w=0.0, compress_w=0.0)
    assert list(
        espresso_parts(exits, [(1, 4)], Targets(draw(6, 8), torch.eye(8, dtype=torch.float64)), without, objective)
    ) == ["distill"]


ALIGN = EspressoSettings(align_w=2.0, temperature=5.0)


def align_of(shallow: Tensor, full: Tensor, teacher: Tensor, cells: list[tuple[int, int]]) -> Tensor:
    basis = torch.eye(teacher.shape[1], dtype=torch.float64)
    return espresso_parts({1: shallow, 2: full}, cells, Targets(teacher, basis), ALIGN, None)["align"]


def test_alignment_is_its_formula() -> None:
    """Cosine with the full model's prefix, plus KL of the similarities to the full model's vectors."""
    shallow, full, teacher = draw(5, 8), draw(5, 8, seed=1), draw(5, 8, seed=2)

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b) / (math.hypot(*a.tolist()) * math.hypot(*b.tolist()))

    wanted = 0.0
    for dim in (4, 8):
        for i in range(5):
            others = [j for j in range(5) if j != i]
            right = [math.exp(5 * cosine(teacher[i], teacher[j])) for j in others]
            found = [math.exp(5 * cosine(shallow[i, :dim], full[j, :dim])) for j in others]
            wanted += 1 - cosine(shallow[i, :dim], full[i, :dim])
            wanted += sum(
                r / sum(right) * math.log(r / sum(right) / (f / sum(found))) for r, f in zip(right, found, strict=True)
            )
    got = align_of(shallow, full, teacher, [(1, 4), (1, 8), (2, 4)])
    assert got.item() == pytest.approx(2.0 * wanted / (2 * 5), rel=1e-9)


def test_alignment_gives_no_gradient_to_the_full_model() -> None:
    shallow, full = draw(6, 8).requires_grad_(), draw(6, 8, seed=1).requires_grad_()
    align_of(shallow, full, draw(6, 8, seed=2), [(1, 4)]).backward()
    assert shallow.grad is not None and shallow.grad[:, :4].abs().sum() > 0
    assert full.grad is None


def test_alignment_is_zero_for_equal_vectors_and_not_for_rotated_ones() -> None:
    full = draw(12, 8)
    assert align_of(full, full, full, [(1, 8)]).item() == pytest.approx(0, abs=1e-12)
    assert align_of(full @ rotation(8), full, full, [(1, 8)]).item() > 0.5


def test_alignment_needs_a_weight_and_a_shallow_cell() -> None:
    teacher, targets = draw(12, 8), Targets(draw(12, 8), torch.eye(8, dtype=torch.float64))
    exits = {1: draw(12, 8, seed=1), 2: teacher}
    assert "align" not in espresso_parts(exits, [(1, 8)], targets, SETTINGS, None)
    assert "align" not in espresso_parts(exits, [(2, 4)], targets, ALIGN, None)
    both = espresso_parts(exits, [(1, 8), (2, 4)], targets, ALIGN, None)
    plain = espresso_parts(exits, [(1, 8), (2, 4)], targets, replace(ALIGN, align_w=0.0), None)
    assert set(both) - set(plain) == {"align"}
    assert all(both[name].item() == part.item() for name, part in plain.items())


def test_running_covariance_gives_principal_components() -> None:
    """Few batches: the moving average equals the covariance of all vectors."""
    vectors = (draw(400, 6) @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1, 0.5], dtype=torch.float64)) + 3).float()
    running = RunningCovariance(6, 0.999)
    for batch in vectors.split(50):
        running.update(batch)
    wanted = torch.linalg.eigh(torch.cov(vectors.double().T, correction=0)).eigenvectors.flip(1).float()
    assert torch.allclose((running.components.T @ wanted).abs(), torch.eye(6), atol=0.05)
    assert torch.allclose(running.mean, vectors.mean(0), atol=1e-4)
    assert set(running.state_dict()) == {"count", "mean", "second", "components"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"teacher": "big"}, r"Unknown teacher 'big'\. Choose one of: frozen, self"),
        ({"temperature": 0.0}, "must be finite and above 0"),
        ({"cells_per_step": 0}, "at least 1"),
        ({"covariance_momentum": 1.0}, "below 1"),
    ],
)
def test_bad_settings_are_errors(setting: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EspressoSettings(**setting)  # type: ignore[arg-type]
