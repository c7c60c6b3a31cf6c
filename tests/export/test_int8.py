"""int8 targets: what they hold, how much of fp32 they keep, and what is said where they cannot run."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from helpers.tiny import BACKBONES, make_checkpoint

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bundle.reader import Bundle, choose_entry, read_graph
from ese_deploy.bundle.tolerances import MINIMUM_FIDELITY, TOLERANCES, fidelity_failures
from ese_deploy.cli.app import main
from ese_deploy.engines import integers, load_engine
from ese_deploy.engines.integers import ZERO_POINT, overflows, unsigned
from ese_deploy.errors import EngineError, InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.activation import choose_activation
from ese_deploy.export.convert import QuantizationSettings, convert
from ese_deploy.export.observe import calibrate_int8, describe_quantization
from ese_deploy.export.quantize import LEVELS, find_activations, round_columns
from ese_deploy.export.texts import calibration_half, held_out_half
from ese_deploy.export.trace import trace
from ese_deploy.runtime import Encoder
from ese_deploy.runtime import loaded as loaded_module
from ese_deploy.target import Target
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus
from ese_deploy.verify.fidelity import measure_fidelity
from ese_deploy.verify.parity import check_target
from ese_deploy.verify.reference import Reference
from ese_deploy.verify.texts import verification_texts

pytestmark = pytest.mark.filterwarnings("ignore:some texts are longer")

TARGETS = [Target(3, 32), Target(1, 16, "int8"), Target(3, 16, "int8"), Target(3, 32, "int8")]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny checkpoint in int8 at 1x16, 3x16 and 3x32, and in fp32 at 3x32."""
    out = tmp_path_factory.mktemp("int8") / "bundle"
    return export_bundle(ExportRequest(str(tiny_checkpoint), out, TARGETS)).bundle


def model_of(bundle: Bundle, target: str) -> onnx.ModelProto:
    return onnx.load_from_string(read_graph(bundle, choose_entry(bundle, target)))


def test_every_product_with_a_weight_of_the_backbone_is_of_integers(bundle: Bundle) -> None:
    path = bundle.path / choose_entry(bundle, "3x32:int8").file
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(path).graph
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == 3 * 6
    for node in products:
        activation, weight = (makers[name] for name in node.input)
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert makers[activation.input[0]].op_type == "QuantizeLinear"
        assert activation.input[2] == ZERO_POINT
        for name in (weight.input[0], weight.input[2], ZERO_POINT):
            assert tensors[name].data_type == onnx.TensorProto.INT8
        scales = tensors[weight.input[1]]
        assert list(scales.dims) == [tensors[weight.input[0]].dims[1]]
        assert not np.any(onnx.numpy_helper.to_array(tensors[weight.input[2]]))
    assert not {node.op_type for node in graph.node} - {*onnx_operators(bundle), *INTEGERS}


INTEGERS = {"QuantizeLinear", "DequantizeLinear", "Cast", "Mul"}


def onnx_operators(bundle: Bundle) -> set[str]:
    return {node.op_type for node in model_of(bundle, "3x32").graph.node}


def test_all_targets_share_one_weights_file_of_a_quarter_of_the_room(bundle: Bundle) -> None:
    sizes = {entry.dtype: entry.bytes for entry in bundle.manifest.weights}
    assert sizes["int8"] < 0.45 * sizes["fp32"]  # small as it is, much of the tiny model is no weight
    for entry in bundle.manifest.targets:
        for tensor in model_of(bundle, str(entry.target)).graph.initializer:
            location = {item.key: item.value for item in tensor.external_data}.get("location")
            assert location in (None, f"weights.{entry.dtype}.data")


def test_unsigned_activations_give_the_same_bits_as_signed_ones(bundle: Bundle) -> None:
    graph = read_graph(bundle, choose_entry(bundle, "3x32:int8"))
    changed = unsigned(graph)
    assert sum(first != second for first, second in zip(graph, changed, strict=True)) == 2
    zero = {tensor.name: tensor for tensor in onnx.load_from_string(changed).graph.initializer}[ZERO_POINT]
    assert (zero.data_type, onnx.numpy_helper.to_array(zero)) == (onnx.TensorProto.UINT8, 128)
    fp32 = read_graph(bundle, choose_entry(bundle, "3x32"))
    assert unsigned(fp32) == fp32

    def run(graph: bytes) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.path))
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        ids = np.arange(5, 25).reshape(2, 10)
        inputs = {value.name: np.ones_like(ids) for value in session.get_inputs()} | {"input_ids": ids}
        result: np.ndarray = session.run(None, inputs)[0]
        return result

    np.testing.assert_array_equal(run(graph), run(changed))


def test_the_manifest_says_how_it_was_made_and_what_it_keeps(bundle: Bundle) -> None:
    settings = bundle.manifest.quantization
    assert settings is not None
    assert (settings.weight_bits, settings.data, settings.n) == (8, SAMPLE_CORPUS_NAME, len(calibration_half()))
    assert not set(held_out_half()) & set(calibration_half())
    full = Encoder.open(bundle, "3x32").encode(held_out_half())
    for entry in bundle.manifest.targets:
        assert (entry.fidelity is not None) == (entry.dtype == "int8")
    found = choose_entry(bundle, "3x32:int8").fidelity
    assert found is not None and found.n == len(held_out_half())
    cosines = (Encoder.open(bundle, "3x32:int8").encode(held_out_half()) * full).sum(1)
    assert found.cosine_mean == pytest.approx(cosines.mean(), abs=1e-5)
    assert found.cosine_p01 == pytest.approx(np.percentile(cosines, 1), abs=1e-5)
    assert found.cosine_mean < 0.999999


def test_a_vector_depends_little_on_its_batch_and_padding(bundle: Bundle) -> None:
    encoder = Encoder.open(bundle, "3x32:int8")
    texts = [item.text for item in sample_corpus()[:40]]
    alone = np.stack([encoder.encode(text) for text in texts])
    together = encoder.encode(texts, batch_size=40, batch_tokens=1 << 20)
    assert np.abs(alone - together).max() <= TOLERANCES["int8"].invariance


def test_vectors_must_be_nearer_to_pytorchs_of_the_same_text_than_to_any_other(
    bundle: Bundle, tiny_checkpoint: Path
) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    reference = Reference(checkpoint, 3)
    texts = verification_texts(reference.count_tokens, checkpoint.max_seq_length)
    exact = reference.cut(reference.pool(texts), 32)
    entry, engine = choose_entry(bundle, "3x32:int8"), load_engine("onnxruntime")
    assert check_target(bundle, entry, engine, texts, exact).failures == ()
    places = np.arange(0, len(texts), 5)
    exact[places] = exact[np.roll(places, 1)]
    failures = check_target(bundle, entry, engine, texts, exact).failures
    assert any("of the texts are nearest to themselves, allowed 90%" in failure for failure in failures)


def test_each_figure_below_its_minimum_is_a_line() -> None:
    random = np.random.default_rng(0)
    exact = random.normal(size=(50, 16)).astype(np.float32)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert fidelity_failures(measure_fidelity(exact, exact, "texts", "0" * 64)) == ()
    noisy = exact + random.normal(size=exact.shape).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    assert len(fidelity_failures(measure_fidelity(noisy, exact, "texts", "0" * 64))) == len(MINIMUM_FIDELITY)


@pytest.mark.slow
def test_reduced_range_keeps_weights_within_7_bits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16, "int8")], reduce_range=True)
    bundle = export_bundle(replace(request, keep_failed=True)).bundle
    assert bundle.manifest.quantization is not None
    assert bundle.manifest.quantization.weight_bits == 7
    graph = onnx.load(bundle.path / bundle.manifest.targets[0].file).graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("weight.int8")]
    matrices = [array for array in weights if array.shape[0] < 600]
    assert len(matrices) == 6
    assert all(np.abs(array.astype(int)).max() == 63 for array in matrices)
    with pytest.raises(InputError, match=r"other settings of int8: 7-bit weights.*, or replace it with `force`"):
        export_bundle(replace(request, targets=[Target(2, 16, "int8")], update=True, reduce_range=False))


@pytest.mark.slow
def test_an_update_stores_no_layer_twice(bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(3, 32, "int8")])
    (alone,) = export_bundle(request).bundle.manifest.weights
    (both,) = export_bundle(replace(request, targets=[Target(1, 16, "int8")], update=True)).bundle.manifest.weights
    assert both.bytes < 1.01 * alone.bytes
    for target in ("1x16:int8", "3x32:int8"):
        vectors = Encoder.open(tmp_path / "out", target).encode(held_out_half()[:8])
        np.testing.assert_allclose(vectors, Encoder.open(bundle, target).encode(held_out_half()[:8]), atol=1e-6)


def test_migration_and_a_cut_range_survive_outliers() -> None:
    random = np.random.default_rng(0)
    sample = random.normal(size=(256, 32)).astype(np.float32)
    sample[:, 3] *= 60  # a channel of outliers
    sample[0, 5] = 900  # and one lone value
    weight = random.normal(size=(32, 16)).astype(np.float32)
    exact = sample[1:] @ weight

    def error(migrate: bool) -> float:
        chosen = choose_activation(sample, [weight], migrate=migrate)
        factors = np.ones(32, np.float32) if chosen.migration is None else chosen.migration
        rounded, scales = round_columns(weight / factors[:, None], LEVELS[8])
        steps = np.clip(np.rint(sample[1:] * factors / chosen.scale), -127, 127) * chosen.scale
        return float(np.square(steps @ (rounded * scales) - exact).mean() / np.square(exact).mean())

    assert choose_activation(sample, [np.zeros_like(weight)]).scale > 0, "a layer of zeros"
    assert choose_activation(np.zeros_like(sample), [weight]).scale > 0
    plain = np.rint(sample[1:] / (900 / 127)) * (900 / 127)
    assert error(migrate=True) < 0.5 * error(migrate=False)
    assert error(migrate=True) < 0.1 * float(np.square(plain @ weight - exact).mean() / np.square(exact).mean())


def test_conversion_leaves_the_traced_graph_as_it_was_and_repeats_itself(tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(str(tiny_checkpoint))
    traced = trace(checkpoint, load_backbone(checkpoint), [1, 3])
    before = ir.to_proto(traced).SerializeToString(deterministic=True)
    graphs = []
    for _ in range(2):
        settings = QuantizationSettings(describe_quantization(None, 8), calibrate_int8(checkpoint, traced, None))
        assert settings.activations.keys() == find_activations(traced).keys()
        graphs.append(ir.to_proto(convert(traced, "int8", settings)).SerializeToString(deterministic=True))
    assert ir.to_proto(traced).SerializeToString(deterministic=True) == before
    assert graphs[0] == graphs[1]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["ModernBERT", "DeBERTa-v3", "T5 encoder", "Qwen3"])
def test_other_backbones_keep_their_vectors(backbone: str, tmp_path: Path) -> None:
    model_type, settings = BACKBONES[backbone]
    pooling = "lasttoken" if backbone == "Qwen3" else "mean"
    checkpoint = make_checkpoint(tmp_path / "model", model_type, pooling=pooling, **settings)
    request = ExportRequest(str(checkpoint), tmp_path / "out", [Target(2, 64, "int8")], keep_failed=True)
    bundle = export_bundle(request).bundle
    kinds = [node.op_type for node in model_of(bundle, "2x64:int8").graph.node]
    assert kinds.count("QuantizeLinear") >= 2 * 4
    found = bundle.manifest.targets[0].fidelity
    # Random weights: a trained model of many channels keeps more, and the tolerances are made for those.
    assert found is not None and found.cosine_mean > 0.97


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "contains 0 texts, too few to calibrate on. Use at least 128."),
        ("a\n" * 5, "Use at least 128"),
        ("\n \n" * 200, "0 texts and 400 blank lines"),
        ("\udcff\n" * 200, "is not UTF-8"),
    ],
)
def test_bad_calibration_files_are_refused(tiny_checkpoint: Path, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16, "int8")], calibration=file)
    with pytest.raises(InputError, match=said):
        export_bundle(request)
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_int8_lists_what_it_has(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="holds no target 3x32:int8; it holds 1x8, 2x16, 3x16, 3x32"):
        Encoder.open(tiny_bundle, "3x32:int8")


def test_a_calibration_file_with_another_field_is_told_what_export_can_read(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"sentence": "a"}\n' * 200)
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16, "int8")], calibration=file)
    with pytest.raises(InputError, match=r"line 1 has no 'text'; it has sentence\. Rename the field to 'text'"):
        export_bundle(request)


@pytest.mark.parametrize("name", ["tensorrt", "onnxruntime-cuda:1"])
def test_an_engine_without_int8_names_those_that_have_it_installed_or_not(bundle: Bundle, name: str) -> None:
    said = f"Engine '{name[:8]}.*' does not run int8, .* Choose the engine onnxruntime or openvino"
    with pytest.raises(EngineError, match=said):
        Encoder.open(bundle, "3x32:int8", engine=name)


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512_vnni", False), ("avx2 avx_vnni", False), ("avx2 fma", True), ("", False)]
)
def test_a_processor_without_vnni_is_known_by_its_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool
) -> None:
    monkeypatch.setattr(integers, "wants_unsigned", lambda: True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert overflows(tmp_path) is expected
    assert overflows(tmp_path / "nothing") is False


def test_opening_int8_without_vnni_warns_and_reduced_range_does_not(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loaded_module, "overflows", lambda: True)
    Encoder.open(bundle, "3x32:int8")
    assert "Target 3x32:int8 needs a processor with VNNI" in caplog.text
    caplog.clear()
    assert bundle.manifest.quantization is not None
    reduced = msgspec.structs.replace(bundle.manifest.quantization, weight_bits=7)
    manifest = msgspec.structs.replace(bundle.manifest, quantization=reduced)
    Encoder.open(replace(bundle, manifest=manifest), "3x32:int8")
    Encoder.open(bundle, "3x32")
    assert caplog.text == ""


def test_doctor_and_verify_pass(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(bundle.path), "--json"]) == 0
    found = {item["what"]: item for item in json.loads(capsys.readouterr().out)}
    assert found["3x32:int8"]["ok"] is True
    assert main(["verify", str(bundle.path), "--json"]) == 0
    checks = {item["target"]: item["parity"] for item in json.loads(capsys.readouterr().out)}
    assert not checks["d03_k032.int8"]["emulated"]


def test_openvino_runs_int8(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        load_engine("openvino")
    except EngineError as error:
        pytest.skip(str(error))
    assert main(["verify", str(bundle.path), "--engine", "openvino", "--json"]) == 0
    checks = {item["target"]: item["parity"] for item in json.loads(capsys.readouterr().out)}
    assert checks["d03_k032.int8"]["passed"]
