"""Picking the fastest engine: what is tried, kept and said."""

from pathlib import Path

import numpy as np
import pytest

from ese_deploy.bundle.reader import Bundle
from ese_deploy.cli.app import main
from ese_deploy.errors import InputError
from ese_deploy.runtime import Encoder, fastest
from ese_deploy.runtime.fastest import EngineChoice, fastest_engine
from ese_deploy.runtime.loaded import LoadedTarget


def test_the_pick_is_the_fastest_of_those_that_were_timed_and_is_kept(
    tiny_bundle: Bundle, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fastest_engine(tiny_bundle, "1x8", threads=1)
    allowed = {min(found.seconds, key=found.seconds.__getitem__), "onnxruntime"}  # which stays in a tie
    assert found.engine in allowed
    assert "onnxruntime" in found.seconds and not any("bf16" in name for name in found.seconds)
    assert found.engine in found.reason
    assert len(list((own_cache / "engines").glob("*.json"))) == 1
    monkeypatch.setattr(fastest, "_measure", lambda *_: pytest.fail("measured again"))
    assert fastest_engine(tiny_bundle, "1x8", threads=1) == found


def test_another_target_or_number_of_threads_is_measured_on_its_own(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def measure(_: Bundle, entry: object, threads: int, names: list[str]) -> EngineChoice:
        seen.append((entry.name, threads))  # type: ignore[attr-defined]
        return EngineChoice(names[0], {names[0]: 1.0}, {})

    monkeypatch.setattr(fastest, "_measure", measure)
    for target, threads in (("1x8", 1), ("1x8", 2), ("2x16", 1), ("1x8", 1)):
        fastest_engine(tiny_bundle, target, threads)
    assert len(seen) == 3


def test_an_engine_whose_vectors_are_far_from_the_default_engine_is_left_out(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    real = fastest._embed

    def turned(loaded: LoadedTarget, *rest: object) -> object:
        vectors = real(loaded, *rest)  # type: ignore[arg-type]
        return -vectors if loaded.engine == "openvino" else vectors

    monkeypatch.setattr(fastest, "_embed", turned)
    found = fastest_engine(tiny_bundle, "1x8", threads=1)
    assert found.engine == "onnxruntime" and found.left_out["openvino"].endswith("-1.0000, allowed 0.99")


def test_int8_also_tries_bf16_around_it() -> None:
    assert fastest._candidates("int8") == ["onnxruntime", "openvino", "openvino:bf16"]
    assert "openvino:bf16" not in fastest._candidates("fp32")


def test_the_encoder_and_the_command_line_take_auto(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fastest, "_measure", lambda *_: EngineChoice("onnxruntime", {"onnxruntime": 1.0}, {}))
    encoder = Encoder.open(tiny_bundle, "3x16", engine="auto")
    assert "engine='onnxruntime'" in repr(encoder)
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    arguments = ["embed", str(tiny_bundle.path), str(tmp_path / "texts.txt"), "--target", "3x16", "--engine", "auto"]
    assert main([*arguments, "--out", str(tmp_path / "vectors.npy")]) == 0
    assert "Picked engine onnxruntime: no other installed engine runs the target." in capsys.readouterr().err
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), encoder.encode(["a cat", "a dog"]), atol=1e-6)


def test_a_wrong_number_of_threads_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="threads"):
        fastest_engine(tiny_bundle, "1x8", threads=0)
