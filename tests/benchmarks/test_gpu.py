"""The GPU benchmark, tried on the CPU with a tiny model; what it says of speed there means nothing."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.gpu.__main__ import dtypes_of, main
from benchmarks.gpu.cases import SHAPES, Case, cases, flops
from benchmarks.gpu.models import checkpoint_of, export_shape
from benchmarks.gpu.results import Results, Row, add
from benchmarks.gpu.timing import ceiling
from ese_deploy.system.machine import describe_machine

QUICK = ["--device", "cpu", "--batches", "1,2", "--lengths", "16", "--case-seconds", "0.001"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


def test_pieces_add_up_to_one_file_of_plain_rows(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = work / "results.json"
    common = [*QUICK, "--work", str(work / "work"), "--out", str(out)]
    assert main(["--only", "tiny/onnxruntime", *common]) == 0
    assert "all targets that were compared equal PyTorch" in capsys.readouterr().out
    assert main(["--only", "tiny/pytorch-eager", *common]) == 0
    found = json.loads(out.read_text())
    assert (found["schema_version"], found["kind"], found["device"]) == (1, "gpu", "cpu")
    assert found["ceiling_tflops"]["fp32"] > 0
    assert "torch" in found["versions"]
    keys = {(row["target"], row["engine"], row["batch"], row["length"]) for row in found["rows"]}
    assert keys == {
        (target, engine, batch, 16)
        for target in ("1x64", "2x64")
        for engine in ("onnxruntime", "pytorch-eager")
        for batch in (1, 2)
    }
    for row in found["rows"]:
        assert row["error"] is None and row["texts_per_second"] > 0 and row["runs"] >= 5
        work_done = row["texts_per_second"] * flops(SHAPES["tiny"], row["depth"], row["length"]) / 1e12
        assert row["tflops"] == pytest.approx(work_done, rel=0.01, abs=1e-4)
    assert {one["target"]: one["parity"]["passed"] for one in found["verified"]} == {"1x64": True, "2x64": True}
    assert found["unmeasured"] == []


def test_what_there_was_no_time_for_is_listed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = work / "late.json"
    arguments = ["--only", "tiny/pytorch-eager", *QUICK, "--work", str(work / "work"), "--out", str(out)]
    assert main([*arguments, "--seconds", "0"]) == 0
    found = json.loads(out.read_text())
    assert found["rows"] == []
    assert "tiny 2x64:fp32 pytorch-eager 1x16" in found["unmeasured"]
    assert "no time was left for 4 cases" in capsys.readouterr().out


def test_a_model_or_an_engine_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--only", "bert-huge"]) == 2
    assert "got 'bert-huge'; models are minilm, bert-base, bert-large, tiny" in capsys.readouterr().err
    assert main(["--device", "cpu", "--only", "tiny/tensorrt"]) == 2


def test_each_engine_measures_the_dtypes_that_it_computes_in() -> None:
    assert dtypes_of(["onnxruntime-cuda"], "cuda") == ["fp16", "bf16"]
    assert dtypes_of(["onnxruntime-cuda", "tensorrt"], "cuda") == ["fp16", "bf16", "int8-fp16"]
    assert dtypes_of(["onnxruntime"], "cpu") == ["fp32"]


def test_a_later_piece_adds_a_dtype_and_keeps_those_there_are(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(SHAPES["tiny"], tmp_path)
    first = export_shape(SHAPES["tiny"], checkpoint, ["fp16"], tmp_path)
    assert [str(entry.target) for entry in first.manifest.targets] == ["1x64:fp16", "2x64:fp16"]
    held = export_shape(SHAPES["tiny"], checkpoint, ["int8-fp16"], tmp_path)
    assert {entry.dtype for entry in held.manifest.targets} == {"fp16", "int8-fp16"}
    again = export_shape(SHAPES["tiny"], checkpoint, ["fp16"], tmp_path)
    assert again.manifest == held.manifest


def test_the_ceiling_of_whole_numbers_is_measured_too() -> None:
    import torch

    assert ceiling("cpu", torch.int8, 0.001) > 1e6


def test_the_main_case_comes_first_and_all_come_once() -> None:
    found = cases((1, 128), (16, 128))
    assert found[0] == Case(128, 128)
    assert len(set(found)) == len(found) == 4


def test_arithmetic_is_that_of_the_published_count() -> None:
    # A text of 128 tokens through BERT-base takes 22.3 GFLOP: 2 x 85e6 parameters x 128, and attention.
    assert flops(SHAPES["bert-base"], 12, 128) == pytest.approx(2 * 84.93e6 * 128 + 12 * 4 * 128**2 * 768, rel=1e-3)
    half, full = (flops(SHAPES["bert-base"], depth, 128) for depth in (6, 12))
    assert full == 2 * half


def test_a_later_piece_takes_back_what_was_not_measured_and_keeps_what_was(tmp_path: Path) -> None:
    def piece(unmeasured: list[str], *rows: Row) -> Results:
        return Results(
            machine=describe_machine(),
            device="gpu",
            driver="1",
            versions={},
            date="2026-11-23",
            ceiling_tflops={},
            rows=list(rows),
            unmeasured=unmeasured,
        )

    place = {"model": "minilm", "target": "6x384:fp16", "depth": 6, "dtype": "fp16", "batch": 1, "length": 32}
    row = Row(**place, engine="tensorrt", texts_per_second=9.0)
    out = tmp_path / "gpu.json"
    add(out, piece(["minilm on tensorrt: missing", "minilm 6x384:fp16 tensorrt: no plan", "bert on tensorrt: missing"]))
    assert add(out, piece([], row)).unmeasured == ["bert on tensorrt: missing"]
    failed = Row(**place, engine="tensorrt", error="memory ran out")
    other = Row(**place, engine="onnxruntime-cuda", error="memory ran out")
    assert add(out, piece([], failed, other)).rows == [row, other]
