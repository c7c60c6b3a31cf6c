"""int8: products of activations with weights are of 8-bit integers, by the standard Q/DQ operators.

Weights are symmetric with a scale for each output channel, activations symmetric with one scale. The token embeddings
are stored in 8 bits with a scale for each row. Norms, attention, activation functions and everything after the backbone
stay in fp32; ``int8-fp16`` converts them to fp16 afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ese_deploy.engines.integers import ZERO_POINT
from ese_deploy.errors import InputError

__all__ = [
    "LEVELS",
    "Activation",
    "find_activations",
    "is_token_table",
    "round_columns",
    "to_int8",
    "weight_of",
]

LEVELS = {8: 127, 7: 63}
"""The largest weight for each number of bits."""

_LEVELS = LEVELS[8]
_BACKBONE = "exits.backbone"
_SCOPES = "pkg.torch.onnx.name_scopes"
# The scale of a channel of zeros must not be zero.
_LEAST = 1e-12
# Smaller numbers have too few digits in fp16.
_LEAST_HALF = 2.0**-20
# Engines for CPUs find ZERO_POINT by name and change its dtype; this zero point has another name and keeps it.
_SIGNED = "zero_point"


@dataclass(frozen=True)
class Activation:
    """How one value that enters products is quantized.

    Attributes:
        scale: the value of one integer step, after migration.
        migration: float32 [channels], by which the value is multiplied before, and its weights are divided; None
            without migration.
    """

    scale: float
    migration: NDArray[np.float32] | None = None


def find_activations(model: ir.Model) -> dict[str, list[ir.Node]]:
    """The products with weights in the backbone, by the names of the values [batch, sequence, ...] that enter them.

    Values that do not depend on the text, such as relative positions, stay in fp32.
    """
    found: dict[str, list[ir.Node]] = {}
    for node in model.graph:
        if node.op_type != "MatMul" or not _in_backbone(node):
            continue
        value, weight = node.inputs
        if value is None or weight is None or weight.const_value is None or value.is_initializer():
            continue
        if _axes(value)[:2] == ["batch", "sequence"] and len(_axes(weight)) == 2:
            found.setdefault(value.name or "", []).append(node)
    return found


def weight_of(node: ir.Node) -> NDArray[np.float32]:
    """The weight of a product, float32 [in, out]."""
    weight = node.inputs[1]
    assert weight is not None and weight.const_value is not None
    return np.asarray(weight.const_value.numpy(), np.float32)


def round_columns(
    weight: NDArray[np.float32], levels: int, half: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a weight [in, out] to int8 within ``levels``; returns the integers and a scale for each column.

    With ``half`` fp16 represents the scales exactly, so that converting them changes no weight.
    """
    scales = (np.maximum(np.abs(weight).max(0), _LEAST) / levels).astype(np.float32)
    scales = _in_half(scales) if half else scales
    return np.clip(np.rint(weight / scales), -levels, levels).astype(np.int8), scales


def to_int8(
    model: ir.Model, activations: Mapping[str, Activation], levels: int = _LEVELS, half: bool = False
) -> ir.Model:
    """Convert a traced model to int8.

    Args:
        model: the graph with every exit, in fp32; it is not changed.
        activations: how each value of :func:`find_activations` is quantized.
        levels: the largest weight: 127, or 63 for processors on which sums of 8-bit products overflow.
        half: use scales that fp16 represents exactly, for a graph that is converted to fp16 next. The token embeddings
            then keep their dtype, because TensorRT has no lookup of 8-bit integers.

    Returns:
        A graph of the same inputs and outputs.

    Raises:
        InputError: the graph has no product with a weight.
    """
    converted = model.clone()
    found = _found(converted)
    graph = converted.graph
    zero = _constant(graph, _SIGNED if half else ZERO_POINT, np.array(0, np.int8))
    for name, products in found.items():
        activation = _round_to_half(activations[name]) if half else activations[name]
        quantized = _quantize(graph, products, activation, zero)
        for node in products:
            node.replace_input_with(0, quantized)
            weight = weight_of(node)
            if activation.migration is not None:
                weight = weight / activation.migration[:, None]
            node.replace_input_with(1, _weight(graph, node, weight, levels, half))
    if not half:
        _tables(graph)
    return converted


def _found(model: ir.Model) -> dict[str, list[ir.Node]]:
    """The result of :func:`find_activations`, which must not be empty, unless the graph only looks up token vectors."""
    found = find_activations(model)
    if not found and not any(is_token_table(node) for node in model.graph):
        raise InputError("The traced graph contains no product with a weight and cannot be converted to int8.")
    return found


def _quantize(graph: ir.Graph, products: Sequence[ir.Node], activation: Activation, zero: ir.Value) -> ir.Value:
    """Q and DQ before the products of one value."""
    value = products[0].inputs[0]
    assert value is not None
    nodes: list[ir.Node] = []
    last = value
    if activation.migration is not None:
        factor = _constant(graph, f"{value.name}.migration", activation.migration)
        nodes.append(_node("Mul", [last, factor], f"{value.name}.migrated"))
        last = nodes[-1].outputs[0]
    scale = _constant(graph, f"{value.name}.scale", np.array(activation.scale, np.float32))
    nodes.append(_node("QuantizeLinear", [last, scale, zero], f"{value.name}.int8"))
    nodes.append(_node("DequantizeLinear", [nodes[-1].outputs[0], scale, zero], f"{value.name}.dequantised"))
    _insert(graph, products[0], nodes)
    return nodes[-1].outputs[0]


def _weight(graph: ir.Graph, node: ir.Node, weight: NDArray[np.float32], levels: int, half: bool = False) -> ir.Value:
    """A weight in 8 bits and its DQ, with a scale for each column."""
    name = f"{node.outputs[0].name}.weight"
    whole, scales = round_columns(weight, levels, half)
    inputs = [
        _constant(graph, f"{name}.int8", whole),
        _constant(graph, f"{name}.scale", scales),
        _constant(graph, f"{name}.zero", np.zeros(len(scales), np.int8)),
    ]
    dequantise = _node("DequantizeLinear", inputs, name, {"axis": 1})
    _insert(graph, node, [dequantise])
    return dequantise.outputs[0]


def _tables(graph: ir.Graph) -> None:
    """Store the token embeddings in 8 bits."""
    for node in list(graph):
        if is_token_table(node):
            _table(graph, node)


def _round_to_half(activation: Activation) -> Activation:
    """Round scale and migration to fp16, because the graph and the weights undo them in fp16."""
    migration = None if activation.migration is None else _in_half(activation.migration)
    return Activation(float(_in_half(np.array(activation.scale, np.float32))), migration)


def _in_half(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest positive fp16 numbers."""
    return np.asarray(np.maximum(numbers, _LEAST_HALF).astype(np.float16), np.float32)


def _insert(graph: ir.Graph, before: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Insert nodes before another, in the same module scope, which decides whether they compute in fp16."""
    for node in nodes:
        node.metadata_props.update({key: before.metadata_props[key] for key in {_SCOPES} & set(before.metadata_props)})
    graph.insert_before(before, nodes)


def is_token_table(node: ir.Node) -> bool:
    """Whether a node looks up the embeddings of tokens."""
    if node.op_type != "Gather" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    shape = list(node.inputs[0].shape or [])
    looked_up = node.inputs[0].is_initializer() and node.inputs[1].name == "input_ids"
    return looked_up and len(shape) == 2 and shape[1] != 1  # one column: the rarity of tokens


def _table(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a lookup by lookups of 8-bit rows and of their scales."""
    table, ids = node.inputs
    assert table is not None and table.const_value is not None and ids is not None
    rows = np.asarray(table.const_value.numpy(), np.float32)
    scales = np.maximum(np.abs(rows).max(1, keepdims=True), _LEAST) / np.float32(_LEVELS)
    whole = np.rint(rows / scales).astype(np.int8)
    name = node.outputs[0].name
    found = _node("Gather", [_constant(graph, f"{table.name}.int8", whole), ids], f"{name}.int8", {"axis": 0})
    scale = _node("Gather", [_constant(graph, f"{table.name}.scale", scales), ids], f"{name}.scale", {"axis": 0})
    wide = _node("Cast", [found.outputs[0]], f"{name}.wide", {"to": int(ir.DataType.FLOAT)})
    product = _node("Mul", [wide.outputs[0], scale.outputs[0]], f"{name}.dequantised")
    product.outputs[0].type, product.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
    graph.insert_before(node, [found, scale, wide, product])
    ir.convenience.replace_all_uses_with(node.outputs[0], product.outputs[0])
    graph.remove([node], safe=True)


def _constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.Tensor(array, name=name), shape=ir.Shape(array.shape))
    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value


def _node(kind: str, inputs: Sequence[ir.Value], name: str, attributes: Mapping[str, int] | None = None) -> ir.Node:
    node = ir.node(kind, inputs, attributes or {})
    node.outputs[0].name = name
    return node


def _axes(value: ir.Value) -> list[str]:
    """Names or sizes of the axes of a value; empty if the graph has none."""
    return [] if value.shape is None else [str(getattr(axis, "value", axis)) for axis in value.shape]


def _in_backbone(node: ir.Node) -> bool:
    scopes = node.metadata_props.get(_SCOPES)
    return scopes is None or _BACKBONE in scopes
