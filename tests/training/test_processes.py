"""Training in processes of its own: several at once, killed and resumed."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from helpers.tiny import edit_json, make_checkpoint
from sentence_transformers.base.sampler import (
    DefaultBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
)
from torch.utils.data import ConcatDataset, DataLoader, RandomSampler

from ese_deploy.backbones import read_checkpoint
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.training.trainer import ProcessBatches

ROOT = Path(__file__).parents[2]
TEXTS = [item.text for item in sample_corpus()]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

# The command in the repository of the ESE paper, without names, with another batch size and the last line.
PUBLISHED = shlex.split(
    "--ibn_w 10.0 --cosine_w 0. --angle_w 1.0 --angle_tau 20.0 --learning_rate 1e-6 --maxlen 75 --workers 16 "
    "--pooling_strategy cls --epochs 1 --logging_steps 100 --warmup_steps 200 --save_steps 1000 --fp16 1 "
    "--gradient_accumulation_steps 4 --apply_ese 1 --ese_compression_size 128 --ese_kl_temperature 1.0 "
    "--batch_size 12 --use_cpu 1"
)


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 128 dimensions, the prefix that the published command trains."""
    folder = make_checkpoint(tmp_path_factory.mktemp("wide") / "wide", hidden_size=128, pooling="cls")
    edit_json(folder / "1_Pooling/config.json", word_embedding_dimension=128)
    return folder


@pytest.fixture(scope="module")
def triplets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Triplets under the names of the published data set."""
    path = tmp_path_factory.mktemp("data") / "nli.jsonl"
    rows = zip(TEXTS[:100], TEXTS[100:200], TEXTS[200:300], strict=True)
    path.write_text("".join(json.dumps({"text": a, "positive": b, "negative": c}) + "\n" for a, b, c in rows), "utf-8")
    return path


def names(model: Path, data: Path, out: Path) -> list[str]:
    return ["--model_name_or_path", str(model), "--train_name_or_path", str(data), "--save_dir", str(out)]


@pytest.mark.slow
def test_published_command_runs_on_two_processes(wide_checkpoint: Path, triplets: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29511"]
    command = [*torchrun, "-m", "training.train", *names(wide_checkpoint, triplets, tmp_path / "out"), *PUBLISHED]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("renamed: 'text' as query") == 1
    assert done.stderr.count("CPUs do not train in fp16") == 1
    assert "processes: 2" in done.stderr and "step 1/1  loss " in done.stderr
    assert "unused" not in done.stderr and "Warning" not in done.stderr
    assert read_checkpoint(str(tmp_path / "out")).trained_exits == [1, 2, 3]
    states = sorted(path.name for path in (tmp_path / "out.run/checkpoint-1").glob("rng_state*"))
    assert states == ["rng_state_0.pth", "rng_state_1.pth"]


@pytest.mark.slow
@pytest.mark.parametrize("turns", ["round_robin", "proportional"])
def test_two_processes_alternate_formats_and_refit_projections(
    turns: str, tiny_checkpoint: Path, triplets: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS) + "\n", "utf-8")
    port = {"round_robin": 29512, "proportional": 29513}[turns]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    flags = "--preset mixed --max_steps 4 --batch_size 8 --maxlen 16 --workers 0 --use_cpu 1 --save_strategy no"
    files = ["--train_name_or_path", str(texts), *flags.split(), "--logging_steps", "1", "--turns", turns]
    command = [*torchrun, "-m", "training.train", *names(tiny_checkpoint, triplets, tmp_path / "out"), *files]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "step 4/4  loss " in done.stderr
    assert done.stderr.count("Fitting projections of the exits again on ") == 1 and "processes: 2" in done.stderr
    assert sorted(read_checkpoint(str(tmp_path / "out")).projections) == [1, 2, 3]


@pytest.mark.parametrize("turns", [RoundRobinBatchSampler, ProportionalBatchSampler])
def test_processes_get_the_same_format_in_each_step_and_a_new_order_in_each_epoch(turns: Any) -> None:
    parts, generator = [range(70), range(70, 120)], torch.Generator()
    together = turns(
        ConcatDataset(parts),  # type: ignore[arg-type]
        [
            DefaultBatchSampler(RandomSampler(part, generator=generator), size, True, generator=generator)
            for part, size in zip(parts, (2 * 8, 2 * 3), strict=True)
        ],
        generator,
        seed=1,
    )
    loader = DataLoader(ConcatDataset(parts), batch_sampler=ProcessBatches(together, 2))  # type: ignore[arg-type]
    ranks = [prepare_data_loader(loader, num_processes=2, process_index=rank, even_batches=False) for rank in (0, 1)]
    drawn = []
    for epoch in (0, 1):
        for rank in ranks:
            rank.set_epoch(epoch)
        first, second = ([batch.tolist() for batch in rank] for rank in ranks)
        assert len(first) == len(second) == len(ranks[0]) == (8 if turns is RoundRobinBatchSampler else 12)
        for one, other in zip(first, second, strict=True):
            assert len(one) == len(other) == (8 if one[0] < 70 else 3)
            assert {row < 70 for row in one} == {row < 70 for row in other} and not set(one) & set(other)
        drawn.append(first)
    assert drawn[0] != drawn[1]


@pytest.mark.slow
def test_killed_and_resumed_run_ends_with_the_weights_of_an_uninterrupted_run(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(TEXTS) + "\n", "utf-8")
    # Seven steps an epoch. The kill comes in the second epoch, between two checkpoints.
    flags = "--epochs 3 --batch_size 27 --gradient_accumulation_steps 2 --save_steps 2 --learning_rate 1e-3"
    more = "--warmup_steps 2 --workers 1 --use_cpu 1 --loss_setting cells_per_step=4 --logging_steps 1"
    start = [sys.executable, "-m", "training.train"]
    settings = [*flags.split(), *more.split()]

    def begin(out: str, *extra: str) -> "subprocess.Popen[str]":
        command = [*start, *names(tiny_checkpoint, data, tmp_path / out), *settings, *extra]
        return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)

    uninterrupted, killed = begin("uninterrupted"), begin("killed")
    run = tmp_path / "killed.run"
    deadline = time.monotonic() + 300
    while not (run / "checkpoint-10/complete").exists():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert (
        not (tmp_path / "killed").exists() and uninterrupted.communicate()[0] is None and uninterrupted.returncode == 0
    )
    # A partially written checkpoint is ignored.
    (run / "checkpoint-1000").mkdir()
    (run / "checkpoint-1000/model.safetensors").write_bytes(b"half")
    resumed = begin("killed", "--resume", "1")
    err = resumed.communicate()[1]
    assert resumed.returncode == 0 and "Resuming from checkpoint-1" in err and "step 1/21" not in err
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("uninterrupted", "killed")]
    assert weights[0] == weights[1]
    assert not (run / "checkpoint-1000").exists()
