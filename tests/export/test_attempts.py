"""A target of int8 that fails its gate is left out; nothing is written where another fails, or none is left."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.tiny import names

from ese_deploy.bundle.golden import load_golden
from ese_deploy.bundle.manifest import Fidelity
from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.bundle.tolerances import MINIMUM_FIDELITY, TOLERANCES
from ese_deploy.choose import resolve_profile
from ese_deploy.cli.app import main
from ese_deploy.errors import CheckFailedError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.target import Target

TARGETS = [Target(3, 32), Target(1, 16, "int8"), Target(3, 32, "int8")]


def fidelities(bundle: Bundle) -> dict[str, Fidelity]:
    return {str(entry.target): entry.fidelity for entry in bundle.manifest.targets if entry.fidelity is not None}


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny checkpoint, whatever its targets of int8 are worth."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    return export_bundle(ExportRequest(str(tiny_checkpoint), out, TARGETS, keep_failed=True)).bundle


@pytest.fixture
def gate_between(whole: Bundle, monkeypatch: pytest.MonkeyPatch) -> str:
    """A gate that one of the two targets of int8 fails; which one."""
    for figure in MINIMUM_FIDELITY:
        found = {name: getattr(one, figure) for name, one in fidelities(whole).items()}
        if len(set(found.values())) == 2:
            monkeypatch.setitem(MINIMUM_FIDELITY, figure, sum(found.values()) / 2)
            return min(found, key=lambda name: found[name])
    raise AssertionError("the two are as good as each other by every figure")


def nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MINIMUM_FIDELITY, "cosine_mean", 1.1)


@pytest.mark.slow
def test_a_target_that_fails_is_named_and_left_out_and_the_others_are_written(
    tiny_checkpoint: Path, tmp_path: Path, whole: Bundle, gate_between: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    wanted = ",".join(map(str, TARGETS))
    assert main(["export", str(tiny_checkpoint), "--out", str(out), "--targets", wanted]) == 0
    said = capsys.readouterr()
    assert f"warning: {gate_between} is left out: " in said.err and " with fp32" in said.err
    assert "Write it anyway with --keep-failed." in said.err
    assert "new targets passed every check; 1 left out." in said.out
    bundle = open_bundle(out)
    held = [str(entry.target) for entry in bundle.manifest.targets]
    assert held == [str(entry.target) for entry in whole.manifest.targets if str(entry.target) != gate_between]
    assert len([name for name in names(out) if name.endswith(".onnx")]) == 2
    assert load_golden(bundle).vectors.keys() == {entry.name for entry in bundle.manifest.targets}
    kept = next(name for name in held if name.endswith("int8"))
    assert fidelities(bundle)[kept] == fidelities(whole)[kept]
    assert main(["doctor", str(out)]) == 0


@pytest.mark.slow
def test_weights_that_only_failed_targets_read_are_not_kept(
    tiny_checkpoint: Path, tmp_path: Path, whole: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_passes(monkeypatch)
    exported = export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", TARGETS))
    assert [str(check.entry.target) for check in exported.left_out] == ["1x16:int8", "3x32:int8"]
    assert [entry.dtype for entry in exported.bundle.manifest.weights] == ["fp32"]
    assert "weights.int8.data" not in names(tmp_path / "out")
    assert exported.bundle.manifest.quantization is None
    assert whole.manifest.quantization is not None


def test_nothing_is_written_where_nothing_is_left(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing_passes(monkeypatch)
    out = tmp_path / "out"
    assert main(["export", str(tiny_checkpoint), "--out", str(out), "--targets", "1x16:int8,2x16:int8"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":int8: mean cosine")[0] for line in said[:2]] == ["1x16", "2x16"]
    assert said[-1] == f"error: 2 checks failed; nothing was written to {out}"
    assert names(tmp_path) == []


def test_a_failed_target_is_written_where_that_is_asked_for(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_passes(monkeypatch)
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", TARGETS[:2], keep_failed=True)
    exported = export_bundle(request)
    assert exported.left_out == []
    passed = {str(entry.target): entry.parity[0].passed for entry in exported.bundle.manifest.targets}
    assert passed == {"3x32": True, "1x16:int8": False}


@pytest.mark.slow
def test_a_target_of_fp32_that_fails_stops_the_export(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "fp32", replace(TOLERANCES["fp32"], max_abs=0.0))
    with pytest.raises(CheckFailedError, match="1 checks failed; nothing was written") as caught:
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", TARGETS))
    assert [line.partition(": max")[0] for line in caught.value.failures] == ["3x32"]
    assert names(tmp_path) == []


@pytest.mark.slow
def test_an_update_leaves_out_what_fails_and_changes_nothing_where_all_does(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16)])
    before = export_bundle(request).bundle
    nothing_passes(monkeypatch)
    with pytest.raises(CheckFailedError, match="nothing was written"):
        export_bundle(replace(request, targets=[Target(1, 16, "int8")], update=True))
    assert open_bundle(tmp_path / "out").sha256 == before.sha256
    bundle = export_bundle(replace(request, targets=[Target(2, 16), Target(1, 16, "int8")], update=True)).bundle
    assert [str(entry.target) for entry in bundle.manifest.targets] == ["1x16", "2x16"]


@pytest.mark.slow
def test_a_profile_takes_its_next_dtype_where_all_of_the_first_fail(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing_passes(monkeypatch)
    out = tmp_path / "out"
    options = ["--profile", "edge", "--depths", "1,3", "--dims", "16,32", "--json"]
    assert main(["export", str(tiny_checkpoint), "--out", str(out), *options]) == 0
    said = capsys.readouterr()
    assert [entry["dtype"] for entry in json.loads(said.out)["targets"]] == ["fp32"]
    assert said.err.count("is left out") == 4
    found = resolve_profile(out, "edge")
    assert found.fell_back and "no target has the dtype int8" in found.reason
    assert found.target.dtype == "fp32"
