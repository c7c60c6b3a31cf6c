"""Pooling of one position: the last layer computes that position only, and the vectors stay."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from helpers.tiny import BACKBONES, make_checkpoint, write_json
from numpy.typing import NDArray

from ese_deploy.backbones import Checkpoint, load_backbone, read_checkpoint
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.export.convert import QuantizationSettings, convert
from ese_deploy.export.observe import calibrate_int8, describe_quantization
from ese_deploy.export.position_rules import dims_of
from ese_deploy.export.prune import prune_positions
from ese_deploy.export.trace import output_name, trace
from ese_deploy.projections.projection import Projection
from ese_deploy.runtime import Encoder
from ese_deploy.target import DTYPES, Target
from ese_deploy.verify.emulate import widen

DEPTHS = (1, 2, 3)
# Products of a last layer at one position: query, attention output and feed-forward, whose gate is one more.
GATED = {"EuroBERT", "NomicBERT", "GTE", "T5 1.1 encoder", "Qwen2", "Qwen3", "Llama", "Gemma 3"}
GATED |= {"EmbeddingGemma", "Mistral"}
# One product gives query, key and value, or query and relative positions are mixed node by node.
PARTLY = {"ModernBERT", "DeBERTa-v2", "DeBERTa-v3"}


def saved(folder: Path, backbone: str, pooling: str) -> Checkpoint:
    model_type, settings = BACKBONES[backbone]
    path = make_checkpoint(folder / "model", model_type, **settings)
    write_json(path / "1_Pooling/config.json", {"embedding_dimension": 64, "pooling_mode": pooling.split("+")})
    return read_checkpoint(str(path))


def traced(checkpoint: Checkpoint, opset: int = 23, projections: dict[int, Projection] | None = None) -> ir.Model:
    return trace(checkpoint, load_backbone(checkpoint), DEPTHS, opset, projections)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A BERT that pools the first token."""
    return saved(tmp_path_factory.mktemp("bert"), "BERT", "cls")


@pytest.fixture(scope="module")
def bert_graph(bert: Checkpoint) -> ir.Model:
    """Its graph, in which exit 2 reads three states."""
    matrix = np.random.default_rng(0).normal(size=(64, 3 * 64)).astype(np.float32)
    return traced(bert, projections={2: Projection(matrix, (0, 1, 2))})


def graph_of(model: ir.Model, depth: int, pruned: bool) -> ir.Model:
    graph = ir.convenience.extract(model.graph, list(model.graph.inputs), [output_name(depth)])
    if pruned:
        prune_positions(graph)
    return ir.Model(graph, ir_version=model.ir_version)


def vectors(model: ir.Model) -> NDArray[np.float32]:
    """Vectors of rows that are padded on the right and on the left."""
    session = onnxruntime.InferenceSession(
        widen(ir.to_proto(model).SerializeToString(), rounding=False), providers=["CPUExecutionProvider"]
    )
    ids = np.random.default_rng(1).integers(5, 500, (4, 13))
    mask = np.ones_like(ids)
    mask[1, 9:] = 0
    mask[2, :4] = 0
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    found: NDArray[np.float32] = session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})[0]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def products_at_one_position(model: ir.Model) -> int:
    shapes = [dims_of(node.outputs[0]) or [] for node in model.graph if node.op_type == "MatMul"]
    return sum(len(shape) == 3 and shape[:2] == ["batch", 1] for shape in shapes)


def check_equal(model: ir.Model, depth: int) -> ir.Model:
    whole, pruned = (graph_of(model, depth, wanted) for wanted in (False, True))
    np.testing.assert_allclose(vectors(pruned), vectors(whole), atol=1e-6)
    return pruned


@pytest.mark.parametrize(
    "backbone", [pytest.param(name, marks=() if name == "Qwen3" else pytest.mark.slow) for name in BACKBONES]
)
def test_the_last_layer_of_every_backbone_computes_one_position(backbone: str, tmp_path: Path) -> None:
    model = traced(saved(tmp_path, backbone, "lasttoken"))
    for depth in (1, 3):
        expected = 3 if backbone in PARTLY else 4 + (backbone in GATED)
        assert products_at_one_position(check_equal(model, depth)) == expected


@pytest.mark.slow
def test_opset_18_spells_attention_out_and_is_pruned_too(bert: Checkpoint) -> None:
    assert products_at_one_position(check_equal(traced(bert, opset=18), 3)) == 4


def test_of_several_states_only_that_of_the_last_layer_is_pruned(bert_graph: ir.Model) -> None:
    for depth in DEPTHS:
        assert products_at_one_position(check_equal(bert_graph, depth)) == 4


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_other_dtypes_are_pruned_too(dtype: str, bert: Checkpoint, bert_graph: ir.Model) -> None:
    settings = None
    if DTYPES[dtype].quantized:
        settings = QuantizationSettings(describe_quantization(None, 8), calibrate_int8(bert, bert_graph, None))
    pruned = check_equal(convert(bert_graph, dtype, settings), 3)
    products = [node for node in pruned.graph if node.op_type == "MatMul"]
    assert len(products) == 6 * 3
    if dtype == "int8":  # engines find an integer product by the operators before it
        befores = {value.producer() for node in products if (value := node.inputs[0]) is not None}
        assert {before.op_type for before in befores if before} == {"DequantizeLinear"}


@pytest.mark.parametrize("pooling", ["cls+mean", pytest.param("max", marks=pytest.mark.slow)])
def test_poolings_that_read_all_positions_change_nothing(pooling: str, tmp_path: Path) -> None:
    model = traced(saved(tmp_path, "BERT", pooling))
    whole, pruned = (graph_of(model, 3, wanted) for wanted in (False, True))
    assert ir.to_proto(pruned) == ir.to_proto(whole)


def test_a_bundle_of_it_is_verified_and_opened(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", pooling="cls")
    exported = export_bundle(ExportRequest(str(folder), tmp_path / "bundle", [Target(1, 16), Target(3, 32)]))
    assert [check.parity.passed for check in exported.checks] == [True, True]
    for entry in exported.bundle.manifest.targets:
        assert products_at_one_position(ir.load(exported.bundle.path / entry.file)) >= 4
    assert Encoder.open(exported.bundle, "3x32").encode(["one text"]).shape == (1, 32)
