"""The GPU kit, tried on the CPU with tiny models. Its figures mean nothing there."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import STEPS, StepPlan, main, run_step
from benchmarks.gpu.pack_onnxruntime import codes, keep_architecture
from benchmarks.gpu.records import append, read, states
from benchmarks.gpu.report import main as report
from benchmarks.gpu.report import summary, update_docs
from benchmarks.gpu.shapes import SHAPES, flops
from benchmarks.gpu.unpack import unpack

ROOT = Path(__file__).resolve().parents[2]
DRY = ["--device", "cpu", "--tiny", "--kit", "none"]


def test_the_steps_fit_into_eight_minutes() -> None:
    assert sum(step.seconds for step in STEPS) <= 480
    assert [step.name for step in STEPS[:3]] == ["peak", "correctness", "throughput"]


def test_every_step_has_a_program() -> None:
    programs = {path.stem for path in (ROOT / "benchmarks/gpu/steps").glob("*.py")} - {"__init__"}
    assert programs == {step.name for step in STEPS}


def test_a_record_is_written_after_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append(path, {"kind": "case", "step": "peak", "n": 1})
    with path.open("ab") as file:
        file.write(b'{"kind": "case", "st')
    append(path, {"kind": "step", "step": "peak", "state": "ok"})
    assert [record["kind"] for record in read(path)] == ["case", "step"]
    assert states(read(path))["peak"]["state"] == "ok"


def test_a_writer_killed_at_any_time_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    program = (
        "import sys, itertools; from pathlib import Path; from benchmarks.gpu.records import append\n"
        "for n in itertools.count(): append(Path(sys.argv[1]), {'kind': 'case', 'n': n, 'text': 'x' * 500})"
    )
    chance = random.Random(0)
    for _ in range(5):
        before = len(read(path))
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT)
        while len(read(path)) == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
        numbers = [json.loads(line)["n"] for line in path.read_text().splitlines()[before:]]
        assert numbers == list(range(len(numbers)))


def test_arithmetic_is_that_of_the_published_count() -> None:
    # BERT-base has 85e6 parameters in its layers; a decoder of Qwen3-0.6B's shape 440e6.
    base, decoder = SHAPES["bert-base"], SHAPES["decoder-0.6b"]
    assert flops(base, 12, 128) == pytest.approx(2 * 84.93e6 * 128 + 12 * 4 * 128**2 * 768, rel=1e-3)
    assert flops(decoder, 28, 128) == pytest.approx(2 * 440.4e6 * 128 + 28 * 4 * 128**2 * 2048, rel=1e-3)
    assert flops(base, 12, 128) == 4 * flops(base, 3, 128)
    assert base.ends == (3, 12)


def _library(pieces: list[tuple[int, int, bytes]]) -> bytearray:
    """A file in ELF format with one container of device code: kind, architecture and payload of each piece."""
    body = b"".join(
        struct.pack("<HHIQ", kind, 0, 32, len(payload)) + bytes(12) + struct.pack("<I", architecture) + payload
        for kind, architecture, payload in pieces
    )
    container = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body
    names = b"\0.nv_fatbin\0"
    header = bytearray(64)
    table = 64 + len(container) + len(names)
    struct.pack_into("<Q", header, 0x28, table)
    struct.pack_into("<HHH", header, 0x3A, 64, 2, 1)
    sections = bytearray(128)
    struct.pack_into("<I", sections, 0, 1)
    struct.pack_into("<QQ", sections, 24, 64, len(container))
    struct.pack_into("<QQ", sections, 64 + 24, 64 + len(container), len(names))
    return header + container + names + sections


def test_packing_keeps_the_code_of_one_architecture() -> None:
    library = _library([(2, 80, b"a" * 16), (2, 90, b"b" * 24), (1, 90, b"ptx" * 8), (2, 90, b"c" * 8)])
    length = len(library)
    freed = keep_architecture(library, 90)
    assert len(library) == length and freed == (32 + 16) + (32 + 24)
    assert [(code.kind, code.architecture, code.size) for code in codes(library)] == [(2, 90, 56), (2, 90, 40)]
    assert b"b" * 24 in library and b"c" * 8 in library and b"a" * 16 not in library


def test_packing_leaves_a_container_without_that_architecture_whole() -> None:
    library = _library([(2, 80, b"a" * 16), (1, 80, b"ptx" * 8)])
    before = bytes(library)
    assert keep_architecture(library, 90) == 0
    assert library == before


def test_without_a_kit_that_is_said(tmp_path: Path) -> None:
    (note,) = unpack(tmp_path / "none", tmp_path / "out", gpu=True)
    assert "run benchmarks/gpu/prepare.sh first" in note


def test_packages_that_are_installed_or_for_another_python_stay_packed(tmp_path: Path) -> None:
    common = {"version": "1", "machine": "any", "file": "none", "folder": "common"}
    parts = [
        {"package": "onnxruntime-gpu", "module": "json", "python": "2.7", **common},
        {"package": "msgspec", "module": "msgspec", "python": "any", **common},
    ]
    (tmp_path / "kit.json").write_text(json.dumps({"parts": parts}))
    first, second = unpack(tmp_path, tmp_path / "out", gpu=True)
    assert "it is for Python 2.7" in first
    assert second == "msgspec 1: not unpacked, since msgspec is installed"


def test_a_part_of_the_kit_that_was_cut_is_not_unpacked(tmp_path: Path) -> None:
    part = {"package": "p", "module": "no_such_module", "version": "1", "python": "any", "machine": "any"}
    part |= {"file": "p.whl", "folder": "common"}
    (tmp_path / "p.whl").write_bytes(b"PK")
    (tmp_path / "kit.json").write_text(json.dumps({"parts": [{**part, "bytes": 3}]}))
    (note,) = unpack(tmp_path, tmp_path / "out", gpu=True)
    assert "is not the file that prepare.sh made" in note


def test_steps_that_need_what_is_missing_are_skipped_with_a_reason(tmp_path: Path) -> None:
    assert main([str(tmp_path / "out"), *DRY, "--only", "tensorrt", "--only", "server", "--work", str(tmp_path)]) == 0
    found = states(read(tmp_path / "out" / "results.jsonl"))
    assert {name: found[name]["state"] for name in found} == {"tensorrt": "skipped", "server": "skipped"}
    assert all(state["reason"] for state in found.values())


@pytest.mark.parametrize(
    ("start", "state", "reason"),
    [
        ("import time; time.sleep(60)", "timed out", "after 5 s"),
        ("import os; os.kill(os.getpid(), 11)", "failed", "the process ended with signal SIGSEGV"),
        (
            "import os; print('no GPU', flush=True); os._exit(3)",
            "failed",
            "the process ended with exit code 3: no GPU",
        ),
    ],
)
def test_a_step_that_hangs_or_crashes_is_recorded(tmp_path: Path, start: str, state: str, reason: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(start)
    results = tmp_path / "results.jsonl"
    with (tmp_path / "log.txt").open("ab") as log:
        run_step(StepPlan("server", 5), 5.0, results, [], {**os.environ, "PYTHONPATH": str(tmp_path)}, log)
    found = states(read(results))["server"]
    assert (found["state"], found["reason"]) == (state, reason)


def test_without_a_gpu_a_step_says_so(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main([str(tmp_path), "--kit", "none", "--tiny", "--only", "latency", "--work", str(tmp_path)]) == 0
    found = states(read(tmp_path / "results.jsonl"))["latency"]
    assert (found["state"], found["reason"]) == ("skipped", "PyTorch sees no GPU")


def _gpu_run() -> list[dict[str, object]]:
    """What a run on a GPU might record, with invented figures."""
    main_case = {"what": "texts", "model": "bert-base", "dtype": "fp16", "batch": 128, "length": 128, "depth": 12}
    speed = {"kind": "case", "step": "throughput", "case": "speed", **main_case}
    versions = {"onnxruntime": "1.31.1 (CUDAExecutionProvider)", "torch": "2.11.0"}
    parity = {"kind": "case", "step": "correctness", "case": "parity", "model": "bert-base", "depth": 12}
    figures = {"cosine_min": 0.9999, "max_abs": 1e-3, "batch_max_abs": 0.0, "padding_max_abs": 0.0}
    return [
        {"kind": "run", "date": "2027-01-02", "device": "cuda", "tiny": False},
        {"kind": "case", "step": "peak", "case": "machine", "gpu": "NVIDIA H100", "machine": "M", "versions": versions},
        {"kind": "case", "step": "peak", "case": "matmul", "dtype": "fp16", "tflops": 700.0},
        {**parity, "dtype": "fp16", **figures},
        {**parity, "dtype": "bf16", "skipped": "no time"},
        {**speed, "contender": "ese-deploy", "texts_per_second": 3000.0},
        {**speed, "contender": "sdpa", "texts_per_second": 2000.0},
        {**speed, "contender": "flash", "skipped": "flash_attn is not installed"},
        {**speed, "what": "tokens", "contender": "ese-deploy", "texts_per_second": 4000.0, "share_of_peak": 0.5},
        {"kind": "step", "step": "peak", "state": "ok", "reason": "", "seconds": 1.0},
    ]


def test_the_summary_compares_with_the_goals() -> None:
    text = summary(_gpu_run())
    assert "| 1.3 | 1.50 (reached) |" in text
    assert "| 0.6 | 0.50 (missed) |" in text
    assert "| 3.5 | not measured |" in text
    assert "| all | 1 of 1 checks passed |" in text
    assert "skipped: flash_attn is not installed" in text


def test_the_documents_say_what_ran_where_and_keep_what_did_not() -> None:
    page = (ROOT / "docs/guides/gpu.md").read_text()
    again = update_docs(page, [{"kind": "run", "date": "2027-01-02", "device": "cpu", "tiny": True}])
    assert again == page
    rows = [line for line in update_docs(page, _gpu_run()).splitlines() if line.startswith("| `onnxruntime-cuda`")]
    assert "| `onnxruntime-cuda`, fp16, encoders | NVIDIA H100, onnxruntime 1.31.1, torch 2.11.0, 2027-01-02 |" in rows
    (held,) = (line for line in page.splitlines() if line.startswith("| `onnxruntime-cuda`, bf16, encoders |"))
    assert held in rows


def test_plots_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in _gpu_run()))
    assert report([str(tmp_path / "results.jsonl")]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"throughput.png", "share.png"}


@pytest.mark.slow
def test_a_dry_run_of_all_steps_ends_well(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    done = subprocess.run(
        ["bash", "benchmarks/gpu/kit.sh", str(tmp_path), *DRY, "--seconds", "1200"],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=1300,
        check=False,
    )
    found = states(read(tmp_path / "results.jsonl"))
    assert set(found) == {step.name for step in STEPS}
    wrong = {name: state for name, state in found.items() if state["state"] not in ("ok", "skipped")}
    assert not wrong, (tmp_path / "log.txt").read_text()[-4000:]
    assert done.returncode == 0


@pytest.mark.slow
def test_a_run_cut_at_any_second_keeps_what_it_measured(tmp_path: Path) -> None:
    chance = random.Random(os.getpid())
    for seconds in (chance.uniform(1, 4), chance.uniform(4, 20)):
        out = tmp_path / f"{seconds:.1f}"
        command = [sys.executable, "-m", "benchmarks.gpu", str(out), *DRY, "--work", str(out / "work")]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        lines = (out / "results.jsonl").read_text().splitlines()
        assert lines and all(json.loads(line)["kind"] in ("run", "case", "step") for line in lines)
        time.sleep(1)
        commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.is_file()]
        assert not [command for command in commands if str(out).encode() in command]
