"""Every graph of fp16 is parsed and built by TensorRT for RTX, which needs no GPU for that: make test-tensorrt."""

from collections import Counter
from pathlib import Path

import pytest
from test_backbones import DECODERS, SPELT_OUT
from tiny import BACKBONES, LAYERS, MAX_LENGTH, make_checkpoint

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.engines.tensorrt.api import Api, Log, import_tensorrt
from ese_deploy.engines.tensorrt.build import BuildSettings, build_plan, parse_graph, profiles_for
from ese_deploy.errors import EngineError
from ese_deploy.export.convert import convert
from ese_deploy.export.extract import extract
from ese_deploy.export.trace import MINIMUM_ONNXRUNTIME, OPSET, trace
from ese_deploy.export.weights import WeightsFile
from ese_deploy.target import Target

pytestmark = pytest.mark.tensorrt

DIM = 64


@pytest.fixture(scope="module")
def api() -> Api:
    try:
        return import_tensorrt()
    except EngineError as error:
        pytest.skip(str(error))


def layers_of(api: Api, graph: bytes, folder: Path) -> Counter[str]:
    """Kinds of layers of the parsed network."""
    log = Log(api)
    network, _parser = parse_graph(api, log, api.module.Builder(log.logger), graph, folder)
    return Counter(str(network.get_layer(number).type).rpartition(".")[2] for number in range(network.num_layers))


@pytest.mark.parametrize("opset", sorted(MINIMUM_ONNXRUNTIME))
@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_graph_of_fp16_parses_and_builds(name: str, opset: int, api: Api, tmp_path: Path) -> None:
    model_type, settings = BACKBONES[name]
    pooling = "lasttoken" if name in DECODERS else "mean"
    checkpoint = read_checkpoint(str(make_checkpoint(tmp_path / "model", model_type, pooling=pooling, **settings)))
    half = convert(trace(checkpoint, load_backbone(checkpoint), [1, LAYERS], opset), "fp16")
    with WeightsFile(tmp_path / "weights.fp16.data", "fp16") as weights:
        graphs = {depth: extract(half, Target(depth, DIM, "fp16"), weights, "test").onnx for depth in (1, LAYERS)}
        weights.entry()
    steps: list[tuple[int, int]] = []
    profiles = profiles_for(BuildSettings(lengths=(16, MAX_LENGTH)), MAX_LENGTH)
    for depth, graph in graphs.items():
        layers = layers_of(api, graph, tmp_path)
        if opset == OPSET:
            assert layers["ATTENTION_INPUT"] == (0 if name in SPELT_OUT else depth)
            assert layers["SOFTMAX"] == (depth if name in SPELT_OUT else 0)
        plan, _ = build_plan(
            api, graph, tmp_path, profiles, BuildSettings(), progress=lambda _, done, total: steps.append((done, total))
        )
        assert len(plan) > 10_000
    assert steps[-1][0] == steps[-1][1] > 1


def test_a_graph_that_does_not_parse_is_refused_with_the_parsers_reason(api: Api, tmp_path: Path) -> None:
    import onnx

    node = onnx.helper.make_node("NoSuchOperator", ["input_ids"], ["y"], domain="nowhere")
    inputs = [onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 8])]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, outputs))
    with pytest.raises(EngineError, match=r"cannot parse the graph: .*NoSuchOperator"):
        build_plan(api, model.SerializeToString(), tmp_path, profiles_for(BuildSettings(), 32), BuildSettings())
