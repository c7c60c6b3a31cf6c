"""int8 with fp16 around, as TensorRT takes it: what the graphs hold, how near they come, and who refuses them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle, read_graph
from ese_deploy.bundle.tolerances import MINIMUM_FIDELITY, TOLERANCES
from ese_deploy.cli.app import main
from ese_deploy.engines import engines_for, load_engine
from ese_deploy.engines.integers import unsigned
from ese_deploy.engines.onnxruntime_tensorrt import tensorrt_options
from ese_deploy.errors import CheckFailedError, EngineError, InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.convert import QuantizationSettings, convert
from ese_deploy.export.observe import calibrate_int8, describe_quantization
from ese_deploy.export.quantize import LEVELS, round_columns
from ese_deploy.export.texts import held_out_half
from ese_deploy.export.trace import trace
from ese_deploy.runtime import Encoder
from ese_deploy.runtime.loaded import engine_input
from ese_deploy.target import Target
from ese_deploy.verify.emulate import Emulated, widen

pytestmark = pytest.mark.filterwarnings("ignore:some texts are longer")

FLOAT, HALF, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8
MIXED = "3x32:int8-fp16"
TARGETS = [Target(3, 32), *(Target(depth, 32, dtype) for depth in (1, 3) for dtype in ("int8", "int8-fp16"))]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny checkpoint at 3x32, and in int8 with fp32 and with fp16 around at 1x32 and 3x32."""
    out = tmp_path_factory.mktemp("mixed") / "bundle"
    return export_bundle(ExportRequest(str(tiny_checkpoint), out, TARGETS)).bundle


def graph_of(bundle: Bundle, target: str) -> onnx.GraphProto:
    return onnx.load(bundle.path / choose_entry(bundle, target).file).graph


def test_products_meet_dequantisers_of_fp16_and_every_zero_point_is_zero(bundle: Bundle) -> None:
    onnx.checker.check_model(str(bundle.path / choose_entry(bundle, MIXED).file), full_check=True)
    graph = graph_of(bundle, MIXED)
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    dtypes = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == 3 * 6
    for product in products:
        activation, weight = (makers[name] for name in product.input)
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        quantise = makers[activation.input[0]]
        assert quantise.op_type == "QuantizeLinear"
        assert dtypes[quantise.input[0]] == dtypes[product.output[0]] == HALF
        assert quantise.input[1:] == activation.input[1:]
        assert tensors[weight.input[0]].data_type == INT8
        for node in (quantise, activation, weight):
            scale, zero = (tensors[name] for name in node.input[1:])
            assert (scale.data_type, zero.data_type) == (HALF, INT8)
            assert np.all(onnx.numpy_helper.to_array(scale) > 0)
            assert not np.any(onnx.numpy_helper.to_array(zero))


def test_what_lies_around_is_fp16_and_statistics_pooling_and_output_are_fp32(bundle: Bundle) -> None:
    fp32, graph = graph_of(bundle, "3x32"), graph_of(bundle, MIXED)
    assert [str(value) for value in (*graph.input, *graph.output)] == [
        str(value) for value in (*fp32.input, *fp32.output)
    ]
    dtypes = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    for kind, expected in (("Attention", HALF), ("Gelu", HALF), ("ReduceSum", FLOAT)):
        found = {dtypes[node.output[0]] for node in graph.node if node.op_type == kind}
        assert found == {expected}, kind
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    assert all({item.name: item.i for item in node.attribute}["stash_type"] == FLOAT for node in norms)
    # What TensorRT looks up is fp16: it has no lookup of whole numbers of 8 bits.
    tables = {tensor.name: tensor for tensor in graph.initializer}
    lookups = [tables[node.input[0]] for node in graph.node if node.op_type == "Gather" and node.input[0] in tables]
    assert {tensor.data_type for tensor in lookups if len(tensor.dims) == 2} == {HALF}


def test_all_its_targets_share_one_weights_file_smaller_than_that_of_fp32(bundle: Bundle) -> None:
    sizes = {entry.dtype: entry.bytes for entry in bundle.manifest.weights}
    assert sizes.keys() == {"fp32", "int8", "int8-fp16"}
    assert sizes["int8"] < sizes["int8-fp16"] < 0.6 * sizes["fp32"]
    shallow, deep = (places_of(bundle, f"{depth}x32:int8-fp16") for depth in (1, 3))
    assert {place[0] for place in deep} == {"weights.int8-fp16.data"}
    assert shallow < deep


def places_of(bundle: Bundle, target: str) -> set[tuple[str, str, str]]:
    """File, offset and length of each tensor that lies in a weights file."""
    graph = onnx.load_from_string(read_graph(bundle, choose_entry(bundle, target))).graph
    held = [{item.key: item.value for item in one.external_data} for one in graph.initializer]
    return {(place["location"], place["offset"], place["length"]) for place in held if place}


def test_the_manifest_says_emulated_and_what_is_left_of_fp32(bundle: Bundle) -> None:
    assert bundle.manifest.quantization is not None
    full = Encoder.open(bundle, "3x32").encode(held_out_half())
    entry = choose_entry(bundle, MIXED)
    assert entry.engines == engines_for("int8-fp16") == ["tensorrt", "onnxruntime-tensorrt"]
    measured, *others = entry.parity
    assert measured.passed and measured.emulated
    assert {one.engine: one.passed for one in others} == dict.fromkeys(entry.engines)
    emulated = Encoder.open(bundle, MIXED, engine=Emulated(load_engine("onnxruntime"))).encode(held_out_half())
    cosines = (emulated * full).sum(1)
    assert entry.fidelity is not None
    assert entry.fidelity.cosine_mean == pytest.approx(cosines.mean(), abs=1e-5)
    assert entry.fidelity.cosine_mean < 0.999999
    # fp16 around costs little beside the 8 bits.
    int8 = choose_entry(bundle, "3x32:int8").fidelity
    assert int8 is not None and entry.fidelity.cosine_mean > int8.cosine_mean - 1e-3


def test_it_has_the_tolerances_of_int8_and_fails_by_them(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TOLERANCES["int8-fp16"] == TOLERANCES["int8"]
    monkeypatch.setitem(MINIMUM_FIDELITY, "cosine_mean", 1.1)
    with pytest.raises(CheckFailedError) as caught:
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16, "int8-fp16")]))
    assert [line.partition(" cosine")[0] for line in caught.value.failures] == ["1x16:int8-fp16: mean"]


def test_an_engine_of_the_cpu_refuses_it_and_names_those_that_have_it(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    said = (
        "Engine 'onnxruntime' does not run int8-fp16, the dtype of target 3x32:int8-fp16. "
        "Choose the engine tensorrt or onnxruntime-tensorrt"
    )
    with pytest.raises(EngineError, match=said):
        Encoder.open(bundle, MIXED)
    assert main(["doctor", str(bundle.path)]) == 0
    assert "does not run int8-fp16" in capsys.readouterr().out


@pytest.mark.slow
def test_a_target_that_the_cpu_runs_comes_first_where_none_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    targets = [Target(2, 32, dtype) for dtype in ("int8", "int8-fp16")]
    bundle = export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "out", targets)).bundle
    assert Encoder.open(bundle).target == Target(2, 32, "int8")


def test_opset_18_has_no_scales_of_fp16_and_the_request_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16, "int8-fp16")], opset=18)
    with pytest.raises(InputError, match="Dtype int8-fp16 needs opset 19 or newer, got 18"):
        export_bundle(request)


def test_scales_are_numbers_of_fp16_and_weights_are_rounded_by_them() -> None:
    random = np.random.default_rng(0)
    weight = (random.normal(size=(64, 5)) * np.array([1e3, 1, 1e-2, 1e-3, 0])).astype(np.float32)
    whole, scales = round_columns(weight, LEVELS[8], half=True)
    np.testing.assert_array_equal(scales, scales.astype(np.float16))
    assert np.all(scales > 0) and np.abs(whole.astype(int)).max() == 127
    plain, exact = round_columns(weight, LEVELS[8])
    error, least = (np.square(q * s - weight).sum(0) for q, s in ((whole, scales), (plain, exact)))
    assert np.all(error <= 1.2 * least)
    assert not whole[:, 4].any()


def test_rounding_aside_it_computes_what_int8_computes(tiny_checkpoint: Path, bundle: Bundle) -> None:
    source = engine_input(bundle, choose_entry(bundle, MIXED))
    session = load_engine("onnxruntime").load(replace(source, graph=widen(source.graph, rounding=False)), 1)
    ids = np.random.default_rng(3).integers(5, 600, (7, 20))
    batch = {name: np.ones_like(ids) for name in session.inputs} | {"input_ids": ids, "token_type_ids": 0 * ids}
    found = session.run(batch)
    int8 = load_engine("onnxruntime").load(engine_input(bundle, choose_entry(bundle, "3x32:int8")), 1)
    assert float((found * int8.run(batch)).sum(1).min()) > 0.995


@pytest.mark.slow
def test_conversion_leaves_the_traced_graph_as_it_was(tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    traced = trace(checkpoint, load_backbone(checkpoint), [1, 3])
    before = ir.to_proto(traced).SerializeToString(deterministic=True)
    settings = QuantizationSettings(describe_quantization(None, 8), calibrate_int8(checkpoint, traced, None))
    graphs = [ir.to_proto(convert(traced, "int8-fp16", settings)) for _ in range(2)]
    assert ir.to_proto(traced).SerializeToString(deterministic=True) == before
    assert graphs[0] == graphs[1]


def test_its_zero_point_is_not_the_one_that_the_cpu_changes(bundle: Bundle) -> None:
    graph = read_graph(bundle, choose_entry(bundle, MIXED))
    assert unsigned(graph) == graph


def test_the_provider_is_told_of_8_bits_only_where_the_graph_quantises(tmp_path: Path) -> None:
    options = [tensorrt_options(0, tmp_path, "plan", ["input_ids"], 32, quantised) for quantised in (False, True)]
    assert [one["trt_int8_enable"] for one in options] == ["0", "1"]


@pytest.mark.slow
def test_it_can_be_added_to_a_bundle_of_int8(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16, "int8")])
    export_bundle(request)
    export_bundle(replace(request, targets=[Target(1, 16, "int8-fp16")], update=True))
    assert [str(entry.target) for entry in open_bundle(tmp_path / "out").manifest.targets] == [
        "1x16:int8",
        "1x16:int8-fp16",
    ]
