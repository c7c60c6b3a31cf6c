"""TensorRT itself parses and builds, without a GPU: `make test-tensorrt`. Every backbone is in test_backbones.py."""

from pathlib import Path

import onnx
import pytest
from helpers.engine_inputs import input_of
from helpers.tensorrt import layers_of, products_of

from benchmarks.gpu.models import export_model, make_model
from benchmarks.gpu.shapes import SHAPES
from ese_deploy.bundle.reader import choose_entry, open_bundle
from ese_deploy.engines.tensorrt.api import Api
from ese_deploy.engines.tensorrt.build import BuildSettings, build_plan, profiles_for
from ese_deploy.errors import EngineError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.runtime.loaded import engine_input
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus

pytestmark = pytest.mark.tensorrt


def test_a_bert_of_minilms_shape_multiplies_in_8_bits_around_attention_of_fp16(
    tensorrt_api: Api, tmp_path: Path
) -> None:
    shape = SHAPES["minilm-l6"]
    make_model(shape, tmp_path / "model")
    export_model(shape, tmp_path / "model", tmp_path / "bundle", ["int8-fp16"])
    bundle = open_bundle(tmp_path / "bundle")
    settings = BuildSettings(lengths=(32, 128))
    for depth in (3, 6):
        source = engine_input(bundle, choose_entry(bundle, f"{depth}x{shape.hidden}:int8-fp16"))
        layers = layers_of(tensorrt_api, source)
        # What enters query, key and value is quantised once, and so is what enters each of the three other products.
        assert (layers["QUANTIZE"], layers["DEQUANTIZE"]) == (4 * depth, (4 + 6) * depth)
        assert products_of(tensorrt_api, source) == {("DEQUANTIZE", "DEQUANTIZE", "HALF"): 6 * depth}
        assert (layers["ATTENTION_INPUT"], layers["SOFTMAX"]) == (depth, 0)
        plan, _ = build_plan(tensorrt_api, source, profiles_for(settings, 512), settings)
        assert len(plan) > 384 * 1536 * depth


@pytest.mark.parametrize("dtype", ["fp16", "int8-fp16"])
def test_exits_that_read_all_states_before_them_keep_attention_in_one_layer(
    dtype: str, tensorrt_api: Api, tmp_path: Path
) -> None:
    make_model(SHAPES["minilm-l6"], tmp_path / "model")
    texts = [part for item in sample_corpus() for part in (item.text, item.text[::2], item.text[::-1])]
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(text.split()) or "a" for text in texts), "utf-8")
    request = ExportRequest(
        str(tmp_path / "model"),
        tmp_path / "bundle",
        [Target(3, 128, dtype)],
        projection="aligned",
        calibration=tmp_path / "texts.txt",
    )
    bundle = export_bundle(request).bundle
    source = engine_input(bundle, bundle.manifest.targets[0])
    layers = layers_of(tensorrt_api, source)
    assert (layers["ATTENTION_INPUT"], layers["SOFTMAX"]) == (3, 0)
    settings = BuildSettings(lengths=(32, 128))
    plan, _ = build_plan(tensorrt_api, source, profiles_for(settings, 512), settings)
    assert len(plan) > 384 * 1536 * 3


def test_a_graph_that_does_not_parse_is_refused_with_the_parsers_reason(tensorrt_api: Api, tmp_path: Path) -> None:
    node = onnx.helper.make_node("NoSuchOperator", ["input_ids"], ["y"], domain="nowhere")
    inputs = [onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 8])]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, outputs))
    source = input_of(model.SerializeToString(), tmp_path)
    with pytest.raises(EngineError, match=r"cannot parse the graph: .*NoSuchOperator"):
        build_plan(tensorrt_api, source, profiles_for(BuildSettings(), 32), BuildSettings())
