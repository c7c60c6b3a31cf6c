"""``ese-deploy build`` and the engine behind it, on a stand-in for TensorRT and the GPU."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.engine_inputs import input_of
from helpers.gpu import fake_runtime
from helpers.tensorrt import GPU, FakeEngine, fake_api

from ese_deploy.bundle.reader import Bundle
from ese_deploy.bundle.tolerances import TOLERANCES
from ese_deploy.cli.app import main
from ese_deploy.engines import EngineInput, load_engine
from ese_deploy.engines.cuda import CudaMemory
from ese_deploy.engines.onnxruntime_tensorrt import require_tensorrt, tensorrt_options
from ese_deploy.engines.tensorrt import engine as engine_module
from ese_deploy.errors import EngineError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.verify.emulate import widen


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    targets = [Target(3, 32), Target(2, 32, "fp16"), Target(3, 32, "fp16"), Target(3, 32, "int8-fp16")]
    return export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path_factory.mktemp("build") / "b", targets)).bundle


@pytest.fixture
def machine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine whose GPU and TensorRT are this process's memory and ONNX Runtime; the plan is the graph itself."""
    state = SimpleNamespace(gpu=GPU, builds=0, change=lambda vectors: vectors)

    class Engine(FakeEngine):
        def execute_async_v3(self, stream: int) -> bool:
            plain = self.session
            self.session = SimpleNamespace(inputs=plain.inputs, run=lambda batch: state.change(plain.run(batch)))
            done = super().execute_async_v3(stream)
            self.session = plain
            return done

    api = fake_api(None)
    api.module.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda plan: Engine(input_of(widen(plan), bundle.path, "fp16"))
    )

    def build(api: Any, source: EngineInput, *_: object) -> tuple[bytes, bytes]:
        state.builds += 1
        return source.graph, b"timings"

    monkeypatch.setattr(engine_module, "import_tensorrt", lambda: api)
    monkeypatch.setattr(engine_module, "find_gpu", lambda index: state.gpu)
    monkeypatch.setattr(engine_module, "build_plan", build)
    monkeypatch.setattr(engine_module, "CudaMemory", lambda index: CudaMemory(index, fake_runtime(free=1 << 24)))
    return state


@pytest.mark.slow
def test_build_makes_the_plans_of_all_targets_that_it_can_once(
    bundle: Bundle, machine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(bundle.path), "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert [one["target"] for one in built] == ["2x32:fp16", "3x32:fp16", "3x32:int8-fp16"]
    assert all(one["passed"] and one["cosine_min"] > 0.9995 and "no plan" in one["why"] for one in built)
    assert main(["build", str(bundle.path)]) == 0
    assert "in the cache" in capsys.readouterr().out
    assert machine.builds == 3
    machine.gpu = replace(GPU, capability=(8, 0))
    assert main(["build", str(bundle.path), "--target", "3x32:fp16"]) == 0
    assert "built for a GPU of sm_90, this one is sm_80" in capsys.readouterr().out
    assert machine.builds == 4


def test_the_engine_takes_the_plan_that_was_built_however_it_was_built(
    bundle: Bundle, machine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(bundle.path), "--target", "3x32:fp16", "--lengths", "16,48", "--batch", "8"]) == 0
    encoder = Encoder.open(bundle, "3x32:fp16", engine="tensorrt")
    texts = ["a boat", "the night train leaves at nine and comes home late"] * 3
    vectors = encoder.encode(texts)
    expected = Encoder.open(bundle, "3x32").encode(texts)
    assert float((vectors * expected).sum(1).min()) > 0.9995
    assert machine.builds == 1
    with pytest.raises(EngineError, match=r"the plan takes 8\. Set `batch_size=8`"):
        encoder.encode(["a boat"] * 9)


def test_without_a_plan_the_engine_builds_one_and_logs_why(
    bundle: Bundle, machine: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    Encoder.open(bundle, "3x32:fp16", engine="tensorrt")
    assert "Building a TensorRT plan, because there is no plan of this graph yet" in caplog.text
    Encoder.open(bundle, "3x32:fp16", engine="tensorrt")
    assert machine.builds == 1


def test_a_plan_that_differs_from_pytorch_fails_the_command(
    bundle: Bundle, machine: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def turn(vectors: np.ndarray) -> np.ndarray:
        turned = vectors + np.float32(0.02)
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)

    machine.change = turn
    assert main(["build", str(bundle.path), "--target", "3x32:fp16"]) == 1
    assert "differ from PyTorch" in capsys.readouterr().err
    # The tolerance of 8 bits is wider.
    assert main(["build", str(bundle.path), "--target", "3x32:int8-fp16", "--json"]) == 0
    (built,) = json.loads(capsys.readouterr().out)
    assert built["passed"] and TOLERANCES["int8"].cosine_min < built["cosine_min"] < TOLERANCES["fp16"].cosine_min


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "onnxruntime"], "Plans are built for the engine tensorrt"),
        (["--target", "3x32"], "TensorRT builds no plan of fp32, the dtype of target 3x32"),
        (["--batch", "0"], "must be at least 1"),
        (["--lengths", "64"], "--lengths must ascend from 1 up to the model's 48 tokens, got 64"),
    ],
)
def test_wrong_use_is_said_in_a_line(
    bundle: Bundle, machine: SimpleNamespace, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["build", str(bundle.path), *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_machine_without_a_gpu_is_told_so(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        load_engine("tensorrt")
    except EngineError:
        assert main(["build", str(bundle.path)]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    else:
        pytest.skip("there is a GPU and TensorRT")


def test_the_providers_options_name_every_input_and_keep_norms_in_fp32(tmp_path: Path) -> None:
    options = tensorrt_options(1, tmp_path, "plan", ["input_ids", "attention_mask"], 128)
    assert options["trt_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1"
    assert options["trt_profile_opt_shapes"] == "input_ids:128x128,attention_mask:128x128"
    assert options["trt_profile_max_shapes"] == "input_ids:512x128,attention_mask:512x128"
    assert options["trt_engine_cache_path"] == str(tmp_path / "plan")
    assert options["trt_fp16_enable"] == options["trt_layer_norm_fp32_fallback"] == options["device_id"] == "1"


def test_another_release_of_tensorrt_is_found_out_before_the_provider_is_tried(tmp_path: Path) -> None:
    (tmp_path / "libnvinfer.so.11").touch()
    with pytest.raises(EngineError, match=r"needs TensorRT 10, .*\(found libnvinfer\.so\.11\)\. Run: pip install"):
        require_tensorrt([tmp_path])
