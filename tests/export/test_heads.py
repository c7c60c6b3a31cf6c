"""Attention splits heads itself where nothing else is done to them, and computes the same."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from helpers.tiny import BACKBONES, make_checkpoint
from numpy.typing import NDArray

from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.bench.operations import OperationCount
from ese_deploy.export.heads import absorb_heads
from ese_deploy.export.trace import trace


def traced(path: Path, opset: int = 23) -> ir.Model:
    checkpoint = read_checkpoint(str(path))
    return trace(checkpoint, load_backbone(checkpoint), (1, 3), opset)


def make_backbone_checkpoint(folder: Path, backbone: str) -> Path:
    model_type, settings = BACKBONES[backbone]
    return make_checkpoint(folder / "model", model_type, **settings)


def serialised(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()


def vectors(model: ir.Model) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(serialised(model), providers=["CPUExecutionProvider"])
    ids = np.array([[2, 5, 9, 7, 3], [2, 8, 3, 0, 0]], np.int64)
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["BERT", "DistilBERT", "MPNet"])
def test_no_operand_is_transposed_and_the_vectors_stay(backbone: str, tmp_path: Path) -> None:
    model = traced(make_backbone_checkpoint(tmp_path, backbone))
    changed = absorb_heads(model)
    assert kinds(model)["Transpose"] - kinds(changed)["Transpose"] == 4 * 3
    assert kinds(changed)["Attention"] == kinds(model)["Attention"] == 3
    for found, expected in zip(vectors(changed), vectors(model), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)
    assert OperationCount.of(serialised(changed)) == OperationCount.of(serialised(model))


def test_values_keep_the_names_by_which_int8_is_calibrated(tiny_checkpoint: Path) -> None:
    model = traced(tiny_checkpoint)
    joined = {node.inputs[0].producer().outputs[0].name for node in model.graph if node.op_type == "MatMul"}  # type: ignore[union-attr]
    assert joined <= {output.name for node in absorb_heads(model).graph for output in node.outputs}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["ModernBERT", "Qwen3"])
def test_turned_operands_are_left_alone(backbone: str, tmp_path: Path) -> None:
    model = traced(make_backbone_checkpoint(tmp_path, backbone))
    assert kinds(absorb_heads(model)) == kinds(model)


def test_a_graph_without_the_operator_is_left_alone(tiny_checkpoint: Path) -> None:
    model = traced(tiny_checkpoint, 18)
    assert serialised(absorb_heads(model)) == serialised(model)
