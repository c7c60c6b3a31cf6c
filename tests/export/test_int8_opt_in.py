"""int8 without calibration, by name only: scales found in each batch, or weights alone."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.bundle.tolerances import TOLERANCES
from ese_deploy.choose.candidates import find_candidates
from ese_deploy.choose.choice import Budgets
from ese_deploy.choose.profiles import parse_profiles
from ese_deploy.choose.resolution import resolve_profile
from ese_deploy.cli.app import main
from ese_deploy.engines import engines_for, load_engine
from ese_deploy.errors import EngineError, InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.runtime import Encoder
from ese_deploy.runtime import loaded as loaded_module
from ese_deploy.target import OPT_IN_DTYPES, Target
from ese_deploy.texts.sample import sample_corpus

pytestmark = pytest.mark.filterwarnings("ignore:some texts are longer")

TARGETS = [Target(3, 32), *(Target(d, k, dtype) for d, k in [(1, 16), (3, 32)] for dtype in sorted(OPT_IN_DTYPES))]
TEXTS = [item.text for item in sample_corpus()[:40]]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny checkpoint at 1x16 and 3x32 in both dtypes, and in fp32 at 3x32."""
    out = tmp_path_factory.mktemp("by_name") / "bundle"
    return export_bundle(ExportRequest(str(tiny_checkpoint), out, TARGETS, keep_failed=True)).bundle


def graph_of(bundle: Bundle, target: str) -> onnx.GraphProto:
    path = bundle.path / choose_entry(bundle, target).file
    onnx.checker.check_model(str(path), full_check=True)
    graph = onnx.load(path, load_external_data=False).graph
    assert {node.domain for node in graph.node} == {""}
    return graph


def moved_by_its_batch(bundle: Bundle, target: str) -> float:
    encoder = Encoder.open(bundle, target)
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    together = encoder.encode(TEXTS, batch_size=len(TEXTS), batch_tokens=1 << 20)
    return float(np.abs(alone - together).max())


def test_dynamic_products_are_of_whole_numbers_whose_scale_is_found_in_the_batch(bundle: Bundle) -> None:
    graph = graph_of(bundle, "3x32:int8-dynamic")
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(products) == 3 * 6
    for node in products:
        whole, weight, zero = node.input
        assert makers[whole].op_type == "DynamicQuantizeLinear"
        assert list(makers[whole].output)[::2] == [whole, zero]
        assert tensors[weight].data_type == onnx.TensorProto.INT8
    # Queries, keys and values share what they multiply.
    assert sum(node.op_type == "DynamicQuantizeLinear" for node in graph.node) == 3 * 4
    assert "MatMul" not in {node.op_type for node in graph.node}


def test_with_weights_alone_every_product_is_of_fp32(bundle: Bundle) -> None:
    graph = graph_of(bundle, "3x32:int8-weights")
    makers = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) == 3 * 6
    for node in products:
        assert node.input[0] not in makers or makers[node.input[0]].op_type != "DequantizeLinear"
        assert makers[node.input[1]].op_type == "DequantizeLinear"
    assert "QuantizeLinear" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize("dtype", sorted(OPT_IN_DTYPES))
def test_targets_share_one_weights_file_of_few_bytes(bundle: Bundle, dtype: str) -> None:
    sizes = {entry.dtype: entry.bytes for entry in bundle.manifest.weights}
    assert sizes[dtype] < 0.45 * sizes["fp32"]
    for target in ("1x16", "3x32"):
        for tensor in graph_of(bundle, f"{target}:{dtype}").initializer:
            location = {item.key: item.value for item in tensor.external_data}.get("location")
            assert location in (None, f"weights.{dtype}.data")


def test_a_dynamic_vector_depends_on_its_batch_and_the_manifest_says_by_how_much(bundle: Bundle) -> None:
    moved = moved_by_its_batch(bundle, "3x32:int8-dynamic")
    assert 1e-4 < moved <= TOLERANCES["int8-dynamic"].invariance
    fidelity = choose_entry(bundle, "3x32:int8-dynamic").fidelity
    assert fidelity is not None and fidelity.batch_max_abs is not None and fidelity.padding_max_abs is not None
    assert fidelity.batch_max_abs > 1e-4 and fidelity.padding_max_abs > 1e-4
    assert fidelity.cosine_mean > 0.97


def test_a_vector_of_int8_weights_depends_on_nothing_and_is_nearest_to_fp32(bundle: Bundle) -> None:
    assert moved_by_its_batch(bundle, "3x32:int8-weights") <= TOLERANCES["int8-weights"].invariance
    weights, dynamic = (choose_entry(bundle, f"3x32:{dtype}").fidelity for dtype in ("int8-weights", "int8-dynamic"))
    assert weights is not None and dynamic is not None
    assert dynamic.agreement < weights.agreement < 1
    assert weights.batch_max_abs is not None and weights.batch_max_abs <= 1e-5


def test_neither_is_taken_unless_it_is_named(bundle: Bundle) -> None:
    assert choose_entry(bundle).target == Target(3, 32)
    assert {one.entry.dtype for one in find_candidates(bundle.manifest, Budgets(), None)} == {"fp32"}
    named = find_candidates(bundle.manifest, Budgets(dtypes=("int8-dynamic",)), None)
    assert {one.entry.dtype for one in named} == {"fp32", "int8-dynamic"}
    profiles = parse_profiles(b'[a]\nprefer = "size"\n[b]\nprefer = "size"\ndtype = "int8-weights"', "mine.toml")
    found = [resolve_profile(name, profile, bundle.manifest).target for name, profile in profiles.items()]
    assert found == [Target(3, 32), Target(1, 16, "int8-weights")]


def test_a_bundle_of_nothing_else_wants_a_name(bundle: Bundle) -> None:
    entries = [entry for entry in bundle.manifest.targets if entry.dtype == "int8-weights"]
    alone = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, targets=entries))
    with pytest.raises(InputError, match="taken by name; name one of 1x16:int8-weights, 3x32:int8-weights"):
        Encoder.open(alone)
    with pytest.raises(InputError, match="name it: --dtype int8-weights"):
        find_candidates(alone.manifest, Budgets(), None)


@pytest.mark.parametrize("name", engines_for("int8-dynamic"))
def test_every_engine_that_claims_them_runs_them(bundle: Bundle, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        load_engine(name)
    except EngineError as error:
        pytest.skip(str(error))
    main(["verify", str(bundle.path), "--engine", name, "--json"])
    found = {item["target"]: item["parity"] for item in json.loads(capsys.readouterr().out)}
    assert len(found) == len(TARGETS)
    for target in ("d03_k032.int8-dynamic", "d03_k032.int8-weights"):
        assert found[target]["cosine_min"] > 0.9
        assert not found[target]["emulated"]


def test_fewer_bits_are_for_dynamic_int8_too_and_later_targets_must_have_as_many(
    bundle: Bundle, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ExportRequest(str(tiny_checkpoint), tmp_path / "out", [Target(1, 16, "int8-dynamic")], keep_failed=True)
    made = export_bundle(replace(request, reduce_range=True)).bundle
    assert made.manifest.quantization is not None
    assert (made.manifest.quantization.weight_bits, made.manifest.quantization.data) == (7, None)
    graph = onnx.load(made.path / made.manifest.targets[0].file).graph
    rounded = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith("weight.int8")]
    assert {np.abs(array.astype(int)).max() for array in rounded if array.shape[0] < 600} == {63}
    added = replace(request, targets=[Target(1, 16, "int8")], update=True)
    with pytest.raises(InputError, match=r"weights of 7 bits, now weights of 8 bits, 192 texts of .*make them alike"):
        export_bundle(added)
    both = export_bundle(replace(added, reduce_range=True)).bundle
    assert both.manifest.quantization is not None
    assert (both.manifest.quantization.weight_bits, both.manifest.quantization.n) == (7, 192)
    monkeypatch.setattr(loaded_module, "overflows", lambda: True)
    with pytest.warns(UserWarning, match="3x32:int8-dynamic assumes a processor with VNNI"):
        Encoder.open(bundle, "3x32:int8-dynamic")
    Encoder.open(bundle, "3x32:int8-weights")
