"""OpenVINO runs the same graphs, equals PyTorch, and sends no telemetry."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.engine_inputs import input_of

from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.bundle.tolerances import TOLERANCES
from ese_deploy.cli.app import main
from ese_deploy.engines import load_engine
from ese_deploy.engines.openvino import OpenVino, import_openvino
from ese_deploy.errors import EngineError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.loaded import engine_input
from ese_deploy.texts.sample import sample_corpus

TEXTS = [item.text for item in sample_corpus() if len(item.text) < 100][:60]


@pytest.fixture(scope="module")
def engine() -> OpenVino:
    try:
        return OpenVino()
    except EngineError as error:
        pytest.skip(str(error))


def test_every_target_equals_pytorch(engine: OpenVino, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_bundle.path), "--engine", "openvino", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert len(checks) == len(tiny_bundle.manifest.targets)
    for check in checks:
        assert (check["parity"]["engine"], check["parity"]["versions"]) == ("openvino", engine.versions)
        assert check["parity"]["max_abs"] <= TOLERANCES["fp32"].max_abs


@pytest.mark.slow
def test_the_real_model_equals_onnx_runtime(engine: OpenVino, minilm_bundle: Bundle) -> None:
    for target in ("1x64", "6x384"):
        expected = Encoder.open(minilm_bundle, target).encode(TEXTS)
        np.testing.assert_allclose(
            Encoder.open(minilm_bundle, target, engine=engine).encode(TEXTS), expected, atol=1e-5
        )


def test_a_graph_that_is_not_in_the_bundle_finds_its_weights_too(
    engine: OpenVino, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    source = engine_input(tiny_bundle, choose_entry(tiny_bundle))
    folder = tmp_path / "weights alone"
    folder.mkdir()
    weights = Path(shutil.copy(source.weights, folder))
    session = engine.load(replace(source, path=folder / source.path.name, weights=weights), 1)
    inputs = {name: np.ones((2, 5), np.int64) for name in session.inputs}
    expected = load_engine("onnxruntime").load(source, 1).run(inputs)
    np.testing.assert_allclose(session.run(inputs), expected, atol=1e-5)


def test_many_threads_get_their_own_vectors_and_keep_them(engine: OpenVino, tiny_bundle: Bundle) -> None:
    encoder = Encoder.open(tiny_bundle, engine=engine, threads=1)
    expected = encoder.encode(TEXTS)
    start = threading.Barrier(4)

    def work(worker: int) -> None:
        start.wait()
        for _ in range(3):
            part = slice(worker * 10, worker * 10 + 20)
            np.testing.assert_allclose(encoder.encode(TEXTS[part]), expected[part], atol=2e-6)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.slow
def test_batches_run_at_once_from_the_first_call_of_a_process(tiny_bundle: Bundle) -> None:
    script = f"""
from ese_deploy import Encoder
from ese_deploy.runtime.loaded import engine_input
from ese_deploy.texts.sample import sample_corpus
texts = [item.text for item in sample_corpus()]
found = Encoder.open({str(tiny_bundle.path)!r}, engine="openvino", threads=2).encode(texts, batch_tokens=64)
assert abs(found - Encoder.open({str(tiny_bundle.path)!r}).encode(texts)).max() < 1e-5
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_the_error_for_a_graph_that_does_not_load_is_one_line(engine: OpenVino, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="OpenVINO cannot load the graph: ") as caught:
        engine.load(input_of(b"no graph", tmp_path), 1)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_bf16_is_near_and_not_equal_where_the_cpu_has_it(engine: OpenVino, minilm_bundle: Bundle) -> None:
    try:
        narrow = OpenVino(bf16=True)
    except EngineError as error:
        pytest.skip(str(error))
    exact = Encoder.open(minilm_bundle, "6x384", engine=engine).encode(TEXTS)
    found = Encoder.open(minilm_bundle, "6x384", engine=narrow).encode(TEXTS)
    assert 0.99 < (exact * found).sum(1).min() < 0.999999


def test_importing_it_sends_nothing_and_leaves_its_telemetry_package_alone(engine: OpenVino) -> None:
    script = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("something reached for the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import threading, subprocess, multiprocessing
started = []
class Watched(threading.Thread):
    def start(self):
        started.append(self)
        super().start()
threading.Thread = Watched
subprocess.Popen = refuse
from ese_deploy.engines.openvino import OpenVino
OpenVino()
assert not any(name.startswith("openvino_telemetry") for name in sys.modules), "its telemetry was loaded"
assert not started, started
import openvino_telemetry
from openvino.tools.ovc import telemetry_utils
assert telemetry_utils.tm.__name__.endswith("stub"), telemetry_utils.tm
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_it_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        EngineError, match=r"OpenVINO is not installed\. Install it with: pip install 'ese-deploy\[openvino\]'"
    ):
        import_openvino()


def test_bf16_is_opt_in_and_has_the_tolerance_of_bf16(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match="Write openvino or openvino:bf16"):
        load_engine("openvino:fp16")
    try:
        loaded = load_engine("openvino:bf16")
    except EngineError as error:
        pytest.skip(str(error))
    assert (loaded.name, loaded.device) == ("openvino", "cpu, bf16")
    assert main(["verify", str(tiny_bundle.path), "--engine", "openvino:bf16", "--json"]) == 0
    for check in json.loads(capsys.readouterr().out):
        assert check["parity"]["device"] == "cpu, bf16"
        assert TOLERANCES["fp32"].max_abs < check["parity"]["max_abs"] <= TOLERANCES["bf16"].max_abs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_is_told_to_open_its_own(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    encoder = Encoder.open(tiny_bundle, "1x8", engine="openvino", threads=1)
    encoder.encode("a")
    number = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: number + 1)
    with pytest.raises(EngineError, match=r"does not run in a forked child\. Open the encoder"):
        encoder.encode("a")
