"""fp16 targets: what they hold, how near PyTorch they come, and who refuses them."""

import json
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.tiny import LAYERS

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bundle.reader import Bundle, choose_entry, open_bundle, read_graph
from ese_deploy.bundle.tolerances import TOLERANCES
from ese_deploy.cli.app import main
from ese_deploy.errors import CheckFailedError, EngineError
from ese_deploy.evaluate import BundleExits
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export import graphs as graphs_module
from ese_deploy.export.convert import QuantizationSettings, convert
from ese_deploy.export.trace import trace
from ese_deploy.runtime import Encoder
from ese_deploy.target import Target
from ese_deploy.verify.report import TargetCheck
from ese_deploy.verify.save import save_parity

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny checkpoint at 2x16 and 3x32, in fp32 and fp16."""
    out = tmp_path_factory.mktemp("half") / "bundle"
    targets = [Target(depth, dim, dtype) for depth, dim in ((2, 16), (3, 32)) for dtype in ("fp32", "fp16")]
    return export_bundle(ExportRequest(str(tiny_checkpoint), out, targets)).bundle


def model_of(bundle: Bundle, target: str) -> onnx.ModelProto:
    return onnx.load_from_string(read_graph(bundle, choose_entry(bundle, target)))


def test_each_dtype_has_one_weights_file_and_fp16_takes_half_the_room(bundle: Bundle) -> None:
    sizes = {entry.dtype: entry.bytes for entry in bundle.manifest.weights}
    assert sizes.keys() == {"fp32", "fp16"}
    assert 0.45 < sizes["fp16"] / sizes["fp32"] < 0.55
    for entry in bundle.manifest.targets:
        for tensor in model_of(bundle, str(entry.target)).graph.initializer:
            location = {item.key: item.value for item in tensor.external_data}.get("location")
            assert location in (None, f"weights.{entry.dtype}.data")


def test_inputs_and_output_are_those_of_fp32_and_the_checker_passes(bundle: Bundle) -> None:
    fp32, fp16 = (model_of(bundle, target).graph for target in ("3x32", "3x32:fp16"))
    assert [str(value) for value in (*fp16.input, *fp16.output)] == [
        str(value) for value in (*fp32.input, *fp32.output)
    ]
    onnx.checker.check_model(str(bundle.path / choose_entry(bundle, "3x32:fp16").file), full_check=True)


def test_norms_pooling_and_normalisation_are_in_fp32_and_products_are_not(bundle: Bundle) -> None:
    graph = model_of(bundle, "3x32:fp16").graph
    dtypes = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    found = {kind: {dtypes[n.output[0]] for n in graph.node if n.op_type == kind} for kind in ("MatMul", "ReduceSum")}
    assert found == {"MatMul": {HALF}, "ReduceSum": {FLOAT}}
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            assert {item.name: item.i for item in node.attribute}["stash_type"] == FLOAT
        if node.op_type == "Div":
            assert dtypes.get(node.output[0], FLOAT) == FLOAT


@pytest.mark.slow
def test_softmax_that_is_spelt_out_is_in_fp32_and_meets_its_product(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "bundle", [Target(3, 32, "fp16")], opset=18)
    exported = export_bundle(request)
    assert exported.checks[0].parity.passed
    graph = model_of(exported.bundle, "3x32:fp16").graph
    dtypes = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    kinds = Counter(node.op_type for node in graph.node)
    assert (kinds["Softmax"], kinds["IsNaN"], kinds["Attention"]) == (LAYERS, 0, 0)
    assert {dtypes[node.output[0]] for node in graph.node if node.op_type == "Softmax"} == {FLOAT}


def test_the_manifest_says_what_was_emulated_and_what_nobody_ran(bundle: Bundle) -> None:
    for entry in bundle.manifest.targets:
        measured, *others = entry.parity
        assert measured.passed and measured.emulated == (entry.dtype == "fp16")
        assert measured.cosine_min is not None and measured.cosine_min >= TOLERANCES[entry.dtype].cosine_min
        assert {parity.engine for parity in others} == set(entry.engines) - {"onnxruntime"}
        assert all(parity.passed is None and parity.max_abs is None for parity in others)
    assert "onnxruntime" not in choose_entry(bundle, "3x32:fp16").engines
    card = (bundle.path / "README.md").read_text("utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| 3x32:fp16 |"))
    assert "(emulated)" in row
    assert "Figures marked (emulated)" in card


def test_an_engine_that_does_not_compute_in_fp16_refuses(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="Engine 'onnxruntime' does not run fp16, the dtype of target 3x32:fp16"):
        Encoder.open(bundle, "3x32:fp16")
    assert Encoder.open(bundle).target == Target(3, 32)
    model = BundleExits(bundle)
    assert {one.dtype for one in model.exits} == {"fp32"}
    assert [str(target) for target in model.skipped] == ["2x16:fp16", "3x32:fp16"]


def test_doctor_and_verify_say_what_they_did_with_fp16(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(bundle.path), "--json"]) == 0
    found = {item["what"]: item for item in json.loads(capsys.readouterr().out)}
    assert found["3x32"]["ok"] is True
    assert found["3x32:fp16"]["ok"] is None and "does not run fp16" in found["3x32:fp16"]["detail"]
    assert main(["verify", str(bundle.path), "--json"]) == 0
    checks = {item["target"]: item["parity"] for item in json.loads(capsys.readouterr().out)}
    assert checks["d03_k032.fp16"]["emulated"] and not checks["d03_k032.fp32"]["emulated"]


@pytest.mark.slow
def test_conversion_leaves_the_traced_graph_as_it_was(tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    traced = trace(checkpoint, load_backbone(checkpoint), [1, 3])
    before = ir.to_proto(traced).SerializeToString(deterministic=True)
    convert(traced, "fp16")
    assert ir.to_proto(traced).SerializeToString(deterministic=True) == before


@pytest.mark.slow
def test_a_number_beyond_fp16_fails_the_checks(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled(model: ir.Model, dtype: str, settings: QuantizationSettings | None = None) -> ir.Model:
        # Equal in fp32, since the norm that follows undoes it; in fp16 the sum overflows.
        for value in model.graph.initializers.values():
            if value.name == "exits.backbone.embeddings.LayerNorm.weight":
                value.const_value = ir.tensor(value.const_value.numpy() * np.float32(2e5))
        return convert(model, dtype, settings)

    monkeypatch.setattr(graphs_module, "convert", scaled)
    with pytest.raises(CheckFailedError) as caught:
        export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "bundle", [Target(1, 32, "fp16")]))
    assert any("1x32:fp16" in line for line in caught.value.failures)
    targets = [Target(1, 32, "fp16"), Target(1, 32, "int8-fp16")]
    kept = export_bundle(ExportRequest(str(tiny_checkpoint), tmp_path / "bundle", targets, keep_failed=True)).bundle
    assert [entry.parity[0].passed for entry in open_bundle(kept.path).manifest.targets] == [False, False]


def test_parity_that_is_saved_takes_the_place_of_not_verified(bundle: Bundle, tmp_path: Path) -> None:
    copy = open_bundle(shutil.copytree(bundle.path, tmp_path / "bundle"))
    entry = choose_entry(copy, "3x32:fp16")
    before = {one.engine: one.passed for one in entry.parity}
    assert before["onnxruntime-cuda"] is None
    parity = msgspec.structs.replace(entry.parity[0], engine="onnxruntime-cuda", device="Some GPU", emulated=False)
    saved = save_parity(copy, [TargetCheck(entry, parity, 0.0, 0.0, 0.0, ())])
    after = choose_entry(saved, "3x32:fp16").parity
    assert [one for one in after if one.engine == "onnxruntime-cuda"] == [parity]
    assert len(after) == len(entry.parity)
    assert choose_entry(saved, "2x16:fp16") == choose_entry(copy, "2x16:fp16")
    # A second GPU stands beside the first.
    other = msgspec.structs.replace(parity, device="Another GPU")
    again = save_parity(saved, [TargetCheck(entry, other, 0.0, 0.0, 0.0, ())])
    assert len(choose_entry(again, "3x32:fp16").parity) == len(entry.parity) + 1


@pytest.mark.slow
def test_bf16_is_made_the_same_way_and_comes_as_near_as_its_digits_allow(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "bundle", [Target(3, 32, "bf16")])
    exported = export_bundle(request)
    parity = exported.checks[0].parity
    assert parity.passed and parity.emulated
    assert parity.cosine_min is not None and TOLERANCES["bf16"].cosine_min <= parity.cosine_min < 1 - 1e-6
    assert [entry.file for entry in exported.bundle.manifest.weights] == ["weights.bf16.data"]
    kinds = {tensor.data_type for tensor in model_of(exported.bundle, "3x32:bf16").graph.initializer}
    assert onnx.TensorProto.BFLOAT16 in kinds and HALF not in kinds
    assert main(["choose", str(exported.bundle.path), "--min-quality", "0.5"]) == 2
    assert "Every target needs an accelerator. Name the engine" in capsys.readouterr().err
    assert main(["choose", str(exported.bundle.path), "--min-quality", "0.5", "--engine", "tensorrt"]) == 0
    assert "3x32:bf16" in capsys.readouterr().out
