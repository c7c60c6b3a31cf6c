"""Two processes train as one does on the joined batch."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ese_deploy.losses import AngleObjective, EseLoss, fit_projections
from ese_deploy.losses.gather import gather
from ese_deploy.texts.sample import sample_corpus

pytestmark = pytest.mark.slow

TEXTS = [item.text for item in sample_corpus()]
# More texts than dimensions, so that all components are determined.
COUNT = 48
COLUMNS = [TEXTS[:COUNT], TEXTS[COUNT : 2 * COUNT], TEXTS[2 * COUNT : 3 * COUNT]]
LABELS = torch.arange(COUNT) % 5 / 4
SHARES = (slice(0, 27), slice(27, COUNT))  # of different sizes
PUBLISHED = {"compression_size": 8}
CASES: dict[str, dict[str, Any]] = {
    "espresso, triplets": {"columns": 3, "objective": AngleObjective(angle_w=1.0)},
    "espresso, labels": {"columns": 2, "labels": True, "objective": AngleObjective(cosine_w=1.0)},
    "espresso, plain texts": {"columns": 1, "settings": {"cells_per_step": 3, "hold_w": 0.5}},
    "espresso, projections": {
        "columns": 2,
        "objective": AngleObjective(),
        "project": True,
        "settings": {"align_w": 0.5},
    },
    "espresso, itself as teacher": {"columns": 1, "settings": {"teacher": "self"}},
    "reference": {"columns": 3, "objective": AngleObjective(), "settings": {"variant": "reference", **PUBLISHED}},
    "paper": {"columns": 2, "objective": AngleObjective(), "settings": {"variant": "paper", **PUBLISHED}},
}


def step(checkpoint: str, case: dict[str, Any], share: slice, distributed: bool) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters and loss's state after a step on a share of the batch, dropout off."""
    model = SentenceTransformer(checkpoint, device="cpu")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    settings = dict(case.get("settings", {}))
    if case.get("project"):
        settings["projections"] = fit_projections(model, TEXTS, [1, 2, 3], max_length=32)
    loss = EseLoss(model, case.get("objective"), **settings)
    own = [] if loss.projections is None else list(loss.projections.parameters())
    optimizer = torch.optim.SGD([*model.parameters(), *own], lr=0.05)
    if distributed:
        loss.model = DistributedDataParallel(model, find_unused_parameters=True)
    model.train()
    features = [model.preprocess(column[share]) for column in COLUMNS[: case["columns"]]]
    sum(loss(features, LABELS[share] if case.get("labels") else None).values()).backward()
    optimizer.step()
    state = loss.training_state()
    return {name: value.detach().clone() for name, value in model.named_parameters()}, torch.cat(
        [value.float().flatten() for name, value in sorted(state.items()) if "components" not in name]
    )


def worker(rank: int, checkpoint: str, out: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", HF_HUB_OFFLINE="1")
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    found = {name: step(checkpoint, case, SHARES[rank], distributed=True) for name, case in CASES.items()}
    rows = torch.arange(6.0).reshape(3, 2)[: 2 - rank].requires_grad_()
    (gather(rows) * torch.tensor([[1.0], [2.0], [4.0]])).sum().backward()
    torch.save({"steps": found, "gradient": rows.grad}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    out = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, args=(str(tiny_checkpoint), str(out)), nprocs=2)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_step_as_one_on_the_whole_batch(name: str, two: list[Any], tiny_checkpoint: Path) -> None:
    wanted, wanted_state = step(str(tiny_checkpoint), CASES[name], slice(0, COUNT), distributed=False)
    (first, first_state), (second, second_state) = (rank["steps"][name] for rank in two)
    untouched = dict(SentenceTransformer(str(tiny_checkpoint), device="cpu").named_parameters())
    assert any(not torch.allclose(value, untouched[key], atol=1e-4) for key, value in wanted.items())
    for key, value in wanted.items():
        assert torch.equal(first[key], second[key]), f"{key} differs between processes"
        # Relative to the step, not to the weights: components of similar variance amplify rounding.
        step_length = (value - untouched[key]).norm()
        assert (first[key] - value).norm() <= 0.05 * step_length + 1e-7, f"{key} differs from one process"
    assert torch.equal(first_state, second_state)
    assert torch.allclose(first_state, wanted_state, atol=1e-5)


def test_gradients_of_gathered_rows_sum_over_processes(two: list[Any]) -> None:
    assert two[0]["gradient"].tolist() == [[2.0, 2.0], [4.0, 4.0]]
    assert two[1]["gradient"].tolist() == [[8.0, 8.0]]


def test_one_process_gathers_nothing() -> None:
    rows = torch.ones(2, 3)
    assert gather(rows) is rows
