"""The checks of ``choose`` at a reduced size: tiny bundles and invented figures."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks.choose import predictions as predictions_module
from benchmarks.choose.__main__ import app
from benchmarks.choose.budgets import answers
from benchmarks.choose.bundles import BUNDLES
from benchmarks.choose.busy import busy_runs
from benchmarks.choose.predictions import MEMORY, Question, predictions
from ese_deploy.bundle.manifest import TargetEntry, encode_manifest
from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose import candidates, explain
from ese_deploy.cli.app import main
from ese_deploy.measurements.cases import Case, Kind
from ese_deploy.measurements.store import Measurement
from ese_deploy.system.progress import Progress, silent
from ese_deploy.system.threads import available_threads


def invented(
    bundle: Bundle,
    entries: Sequence[TargetEntry],
    kind: Kind,
    case: Case,
    engine: str = "onnxruntime",
    *,
    progress: Progress = silent,
) -> list[Measurement]:
    """Figures that grow with depth and dim, so that no measurement is needed."""
    threads = case.threads or available_threads()

    def values(entry: TargetEntry) -> dict[str, float]:
        cost = entry.depth + entry.dim / 1000 + 0.01
        if kind == "latency":
            return {"p50": cost / 1000, "p95": cost / 900, "p99": cost / 800}
        return {"texts_per_second": 1000 / cost} if kind == "throughput" else {"process_peak_bytes": 1e8 + 1e6 * cost}

    return [Measurement(entry.name, engine, {}, kind, case.tokens, threads, 9, values(entry)) for entry in entries]


def variant(bundle: Bundle, folder: Path, agreements: Sequence[float], trained: bool = True, failed: str = "") -> Path:
    """The bundle with other agreements, and with a target that failed a check."""
    shutil.copytree(bundle.path, folder)

    def changed(entry: TargetEntry, value: float) -> TargetEntry:
        quality = [
            msgspec.structs.replace(one, value=value, share_of_full=value) if one.metric == "agreement" else one
            for one in entry.quality
        ]
        passed = entry.name != failed
        parity = [msgspec.structs.replace(one, passed=passed) for one in entry.parity]
        full = entry.depth == bundle.manifest.depth
        return msgspec.structs.replace(entry, trained=trained or full, quality=quality, parity=parity)

    targets = list(map(changed, bundle.manifest.targets, agreements))
    (folder / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(bundle.manifest, targets=targets)))
    return folder


def test_fifty_budgets_of_trained_untrained_and_failed_targets_have_right_answers(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    low = variant(tiny_bundle, tmp_path / "low", (0.25, 0.4, 0.7, 1.0))
    untrained = variant(tiny_bundle, tmp_path / "untrained", (0.7, 0.8, 0.9, 1.0), trained=False)
    failed = variant(tiny_bundle, tmp_path / "failed", (0.7, 0.8, 0.9, 1.0), failed="d03_k032.fp32")
    for folder in (low, untrained, failed):
        found = list(answers(folder, invented))
        assert len(found) == 50
        assert [one for one in found if one.problems] == []
        assert {one.target is None for one in found} == {True, False}
        assert folder is failed or any("Warning:" in one.said for one in found)


def test_an_answer_that_conceals_a_doubt_is_found(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = variant(tiny_bundle, tmp_path / "low", (0.25, 0.4, 0.7, 1.0))
    untrained = variant(tiny_bundle, tmp_path / "untrained", (0.7, 0.8, 0.9, 1.0), trained=False)

    def wrong(folder: Path) -> list[str]:
        return [line for one in answers(folder, invented) for line in one.problems]

    monkeypatch.setattr(explain, "AGREEMENT_FLOOR", -1.0)
    assert any(line.endswith("which is not said") for line in wrong(low))
    monkeypatch.setattr(candidates, "AGREEMENT_FLOOR", -1.0)
    assert any(line.endswith("which was not allowed") for line in wrong(low))
    monkeypatch.setattr(candidates, "_doubt", lambda *_: None)
    assert any("(untrained) is recommended" in line for line in wrong(untrained))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not report the load")
def test_a_busy_core_is_said_and_nothing_is_stored(tiny_bundle: Bundle) -> None:
    ((said, stored),) = busy_runs(tiny_bundle.path, 1, spinning=available_threads())
    assert said.startswith("Busy: others used ") and not stored


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not report the memory of a process")
def test_the_memory_of_a_choice_is_that_of_a_new_process(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions_module, "questions", lambda _: [Question("100s p50", ("--prefer", "speed"))])
    (found,) = predictions([tiny_bundle.path], 1)
    assert found.target == "1x8 on onnxruntime"
    assert found.latency > 0 and found.predicted_latency > 0
    assert abs(found.memory_off) <= MEMORY


def test_the_command_line_names_its_bundles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BUNDLES) == 10
    assert main(["budgets", "--work", str(tmp_path), "--bundle", "nothing"], app) == 2
    assert "Unknown bundle 'nothing'. Choose from: published, labelled" in capsys.readouterr().err
