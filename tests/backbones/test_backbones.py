"""Every backbone, small and with random weights: each exit equals a model that transformers built with that depth."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers.backbone_table import BackboneRow
from helpers.engine_inputs import input_of
from helpers.tensorrt import layers_of, products_of
from helpers.tiny import BACKBONES, LAYERS, MAX_LENGTH, make_checkpoint

from ese_deploy.backbones import Checkpoint, load_backbone, read_checkpoint
from ese_deploy.bundle.tolerances import NORM_TOLERANCE, TOLERANCES
from ese_deploy.engines import load_engine
from ese_deploy.engines.tensorrt.api import Api
from ese_deploy.engines.tensorrt.build import BuildSettings, build_plan, profiles_for
from ese_deploy.export.convert import QuantizationSettings, convert
from ese_deploy.export.extract import extract
from ese_deploy.export.observe import calibrate_int8, describe_quantization
from ese_deploy.export.request import MINIMUM_ONNXRUNTIME, OPSET
from ese_deploy.export.trace import input_names, trace
from ese_deploy.export.weights import WeightsFile
from ese_deploy.target import Target
from ese_deploy.verify.emulate import Emulated, widen
from ese_deploy.verify.reference import Reference

DIMS = (16, 64)
SHAPES = ((1, 1), (1, MAX_LENGTH), (7, 5), (2, 33))
# The others are marked slow: an encoder, a decoder, one with alternating attention, one with relative positions.
FAST = {"BERT", "ModernBERT", "Qwen3", "T5 encoder"}
# Positions are counted from the first column, so PyTorch itself gives other vectors under left padding.
ABSOLUTE = {"BERT", "DistilBERT", "ELECTRA", "ALBERT", "ERNIE", "DeBERTa-v2"}
DECODERS = {"Qwen2", "Qwen3", "Llama", "Gemma 3", "Mistral"}
# Exported node by node: the operator has no product of content and position.
DECOMPOSED = {"DeBERTa-v2", "DeBERTa-v3"}


@dataclass(frozen=True)
class Exported:
    """The graphs of a backbone at every exit and dim, those of fp16 at full width, and their source."""

    name: str
    opset: int
    checkpoint: Checkpoint
    folder: Path
    graphs: dict[tuple[int, int], bytes]
    half: dict[int, bytes]
    traced: ir.Model
    references: dict[int, Reference]


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in BACKBONES],
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Checkpoint]:
    model_type, settings = BACKBONES[request.param]
    pooling = "lasttoken" if request.param in DECODERS else "mean"
    folder = tmp_path_factory.mktemp("backbone") / "model"
    make_checkpoint(folder, model_type, pooling=pooling, **settings)
    return request.param, read_checkpoint(str(folder))


@pytest.fixture(scope="module")
def references(checkpoint: tuple[str, Checkpoint]) -> dict[int, Reference]:
    return {depth: Reference(checkpoint[1], depth) for depth in range(1, LAYERS + 1)}


@pytest.fixture(scope="module", params=sorted(MINIMUM_ONNXRUNTIME))
def exported(
    request: pytest.FixtureRequest,
    checkpoint: tuple[str, Checkpoint],
    references: dict[int, Reference],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    name, read = checkpoint
    sizes = [(depth, dim) for depth in range(1, LAYERS + 1) for dim in DIMS]
    model = trace(read, load_backbone(read), range(1, LAYERS + 1), request.param)
    folder = tmp_path_factory.mktemp("graphs")
    with WeightsFile(folder / "weights.fp32.data", "fp32") as weights:
        graphs = {size: extract(model, Target(*size), weights, "test").onnx for size in sizes}
        weights.entry()
    with WeightsFile(folder / "weights.fp16.data", "fp16") as weights:
        converted = convert(model, "fp16")
        half = {
            depth: extract(converted, Target(depth, DIMS[-1], "fp16"), weights, "test").onnx
            for depth in range(1, LAYERS + 1)
        }
        weights.entry()
    return Exported(name, request.param, read, folder, graphs, half, model, references)


@pytest.fixture(scope="module")
def mixed(exported: Exported) -> dict[int, bytes]:
    """Graphs of int8-fp16 at every exit and full width, at opset 23, because opset 18 has no fp16 scales."""
    if exported.opset < OPSET:
        pytest.skip(f"opset {exported.opset} has no fp16 scales")
    recipe = QuantizationSettings(
        describe_quantization(None, 8), calibrate_int8(exported.checkpoint, exported.traced, None)
    )
    converted = convert(exported.traced, "int8-fp16", recipe)
    with WeightsFile(exported.folder / "weights.int8-fp16.data", "int8-fp16") as weights:
        graphs = {
            depth: extract(converted, Target(depth, DIMS[-1], "int8-fp16"), weights, "test").onnx
            for depth in range(1, LAYERS + 1)
        }
        weights.entry()
    return graphs


def test_every_exit_equals_a_model_built_with_that_depth(exported: Exported, backbone_table: list[BackboneRow]) -> None:
    engine = load_engine("onnxruntime")
    sides = ("right",) if exported.name in ABSOLUTE else ("right", "left")
    batches = [(side, *_batch(exported.checkpoint, shape, side)) for shape in SHAPES for side in sides]
    pooled = {
        depth: [reference.pool_ids(rows) for _, _, rows in batches] for depth, reference in exported.references.items()
    }
    worst, lowest = dict.fromkeys(sides, 0.0), 1.0
    for (depth, dim), graph in exported.graphs.items():
        session = engine.load(input_of(graph, exported.folder), 1)
        reference = exported.references[depth]
        for (side, inputs, _), expected in zip(batches, pooled[depth], strict=True):
            found = session.run(inputs)
            vectors = reference.cut(expected, dim)
            assert found.shape == vectors.shape
            worst[side] = max(worst[side], float(np.abs(found - vectors).max()))
            lowest = min(lowest, float((found.astype(np.float64) * vectors).sum(1).min()))
    backbone_table.append(
        BackboneRow(
            exported.name,
            exported.checkpoint.architecture.model_type,
            exported.checkpoint.pooling,
            exported.opset,
            engine.name,
            worst["right"],
            worst.get("left"),
        )
    )
    assert max(worst.values()) <= TOLERANCES["fp32"].max_abs, worst
    assert lowest >= TOLERANCES["fp32"].cosine_min


def test_every_exit_in_fp16_equals_pytorch_once_cast_back(exported: Exported) -> None:
    engine = load_engine("onnxruntime")
    batches = [_batch(exported.checkpoint, shape, "right") for shape in SHAPES]
    for depth, graph in exported.half.items():
        # Without rounding of results, only the weights are rounded, by about 2 ** -11.
        plain = engine.load(input_of(widen(graph, rounding=False), exported.folder, "fp16"), 1)
        rounded = Emulated(engine).load(input_of(graph, exported.folder, "fp16"), 1)
        reference = exported.references[depth]
        for inputs, rows in batches:
            expected = reference.cut(reference.pool_ids(rows), DIMS[-1])
            assert float((plain.run(inputs) * expected).sum(1).min()) >= 1 - 5e-5
            found = rounded.run(inputs)
            assert float((found * expected).sum(1).min()) >= TOLERANCES["fp16"].cosine_min
            assert float(np.abs(np.linalg.norm(found, axis=1) - 1).max()) <= NORM_TOLERANCE


def test_int8_fp16_keeps_the_vectors(exported: Exported, mixed: dict[int, bytes]) -> None:
    session = Emulated(load_engine("onnxruntime")).load(input_of(mixed[LAYERS], exported.folder, "int8-fp16"), 1)
    cosines: list[float] = []
    for shape in SHAPES:
        inputs, rows = _batch(exported.checkpoint, shape, "right")
        expected = exported.references[LAYERS].cut(exported.references[LAYERS].pool_ids(rows), DIMS[-1])
        found = session.run(inputs)
        cosines += (found * expected).sum(1).tolist()
        assert float(np.abs(np.linalg.norm(found, axis=1) - 1).max()) <= NORM_TOLERANCE
    # Random weights: a trained model of many channels keeps more, and the gate is made for those.
    assert float(np.mean(cosines)) > 0.97


@pytest.mark.tensorrt
def test_tensorrt_parses_and_builds_every_exit_in_fp16(exported: Exported, tensorrt_api: Api) -> None:
    settings = BuildSettings(lengths=(16, MAX_LENGTH))
    steps: list[tuple[int, int]] = []
    for depth, graph in exported.half.items():
        layers = layers_of(tensorrt_api, input_of(graph, exported.folder, "fp16"))
        if exported.opset >= 23:
            # One attention layer for each layer of the model, which TensorRT fuses into one kernel.
            assert layers["ATTENTION_INPUT"] == (0 if exported.name in DECOMPOSED else depth)
            assert layers["SOFTMAX"] == (depth if exported.name in DECOMPOSED else 0)
        profiles = profiles_for(settings, MAX_LENGTH)
        plan, _ = build_plan(
            tensorrt_api,
            input_of(graph, exported.folder, "fp16"),
            profiles,
            settings,
            progress=lambda _, done, total: steps.append((done, total)),
        )
        assert len(plan) > 10_000
    assert steps[-1][0] == steps[-1][1] > 1


@pytest.mark.tensorrt
def test_tensorrt_parses_and_builds_every_exit_in_int8_fp16(
    exported: Exported, mixed: dict[int, bytes], tensorrt_api: Api
) -> None:
    settings = BuildSettings(lengths=(16, MAX_LENGTH))
    for depth, graph in mixed.items():
        held = _operators(graph)
        source = input_of(graph, exported.folder, "int8-fp16")
        layers = layers_of(tensorrt_api, source)
        assert layers["QUANTIZE"] == held["QuantizeLinear"] >= 4 * depth
        assert layers["DEQUANTIZE"] == held["DequantizeLinear"] >= 8 * depth
        weights = held["DequantizeLinear"] - held["QuantizeLinear"]
        assert products_of(tensorrt_api, source)["DEQUANTIZE", "DEQUANTIZE", "HALF"] == weights
        assert layers["ATTENTION_INPUT"] == (0 if exported.name in DECOMPOSED else depth)
        profiles = profiles_for(settings, MAX_LENGTH)
        plan, _ = build_plan(tensorrt_api, source, profiles, settings)
        assert len(plan) > 10_000


def test_a_graph_contains_no_weights_of_deeper_layers(exported: Exported) -> None:
    for depth in range(1, LAYERS + 1):
        held = _tensor_hashes(exported.graphs[depth, DIMS[-1]], exported.folder)
        for layer in range(1, LAYERS + 1):
            weights = _layer_hashes(exported.references[LAYERS], layer)
            if exported.checkpoint.architecture.shared_layers:
                weights = set() if layer > 1 else weights
            # The layers up to the exit must be there, or the test would pass for a graph without weights.
            assert bool(held & weights) == (layer <= depth and bool(weights)), (depth, layer)


def test_a_graph_computes_no_deeper_layer(exported: Exported) -> None:
    counts = [_operators(exported.graphs[depth, DIMS[0]]) for depth in range(1, LAYERS + 1)]
    # Each layer has the same operators; the first may also have shared ones.
    for kind in ("MatMul", "Gemm", "Softmax", "Attention"):
        assert counts[2][kind] - counts[1][kind] == counts[1][kind] - counts[0][kind], kind
    if exported.opset >= 23:
        expected = [0 if exported.name in DECOMPOSED else depth for depth in range(1, LAYERS + 1)]
        assert [count["Attention"] for count in counts] == expected


def test_no_graph_groups_query_heads(exported: Exported) -> None:
    # OpenVINO rejects the Attention operator with fewer key heads than query heads, or returns an empty tensor.
    for graph in exported.graphs.values():
        for node in onnx.load_from_string(graph).graph.node:
            if node.op_type == "Attention":
                heads = {attribute.name: attribute.i for attribute in node.attribute}
                assert heads.get("q_num_heads") == heads.get("kv_num_heads")


def _batch(checkpoint: Checkpoint, shape: tuple[int, int], side: str) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """A batch padded on one side, and its rows without padding."""
    batch, sequence = shape
    rng = np.random.default_rng(sequence)
    lengths = [sequence, *rng.integers(1, sequence + 1, batch - 1)]
    rows = [rng.integers(5, 600, length).tolist() for length in lengths]
    ids = np.full(shape, checkpoint.tokenizer.pad_id, np.int64)
    mask = np.zeros(shape, np.int64)
    for place, row in enumerate(rows):
        span = slice(0, len(row)) if side == "right" else slice(sequence - len(row), sequence)
        ids[place, span], mask[place, span] = row, 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}
    return {name: inputs[name] for name in input_names(checkpoint)}, rows


def _operators(graph: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)


def _tensor_hashes(graph: bytes, folder: Path) -> set[bytes]:
    model = ir.from_proto(onnx.load_from_string(graph))
    ir.external_data.set_base_dir(model.graph, folder)
    return {_hash(value.const_value.numpy()) for value in model.graph.initializers.values()}


def _layer_hashes(reference: Reference, layer: int) -> set[bytes]:
    """Hashes of the matrices of a layer, also transposed."""
    model: Any = reference.model
    layers = next(part for part in model.modules() if type(part).__name__ == "ModuleList")
    matrices = [p.detach().numpy() for p in layers[min(layer, len(layers)) - 1].parameters() if p.ndim == 2]
    return {_hash(array) for matrix in matrices for array in (matrix, matrix.T)}


def _hash(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
