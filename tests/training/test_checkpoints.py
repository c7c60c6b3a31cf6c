import logging
from pathlib import Path

import pytest

from ese_deploy.training.run_folder import finish_checkpoint, last_checkpoint

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two complete checkpoints."""
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in FILES:
            (folder / name).write_bytes(f"{name} at {step}".encode())
        finish_checkpoint(folder, kept=4)
    return tmp_path


def test_the_last_whole_checkpoint_is_taken(run: Path) -> None:
    assert last_checkpoint(run) == run / "checkpoint-4"


@pytest.mark.parametrize("name", [*FILES, "complete"])
@pytest.mark.parametrize("damage", ["removed", "changed", "emptied"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    name: str, damage: str, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = run / "checkpoint-4" / name
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "emptied" else b"x" + path.read_bytes()[1:])
    if name == "complete" and damage == "emptied":
        assert last_checkpoint(run) == run / "checkpoint-4"  # as earlier versions wrote it
        return
    with caplog.at_level(logging.WARNING, "ese_deploy"):
        assert last_checkpoint(run) == run / "checkpoint-2"
    if name != "complete" or damage != "removed":
        assert f"checkpoint-4/{name} is not as it was written" in caplog.text
