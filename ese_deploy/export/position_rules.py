"""How one position of an operator's output follows from one position of its inputs.

A rule gives, for a cut of the output along an axis, what each input has to be cut along. Operators without a rule mix
positions, or nobody has needed them yet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["BATCH", "RULES", "SEQUENCE", "Cut", "Needs", "Row", "constants_of", "dims_of"]

BATCH, SEQUENCE = "batch", "sequence"

Dim = int | str | None

_QUANTIZING = ("DequantizeLinear", "QuantizeLinear")


@dataclass(frozen=True)
class Cut:
    """An input is needed at one position of each text only: its size along ``axis`` becomes 1."""

    axis: int


@dataclass(frozen=True)
class Row:
    """An input [sequence, ...] that all texts share, of which each text needs one row.

    Attributes:
        rank: rank of the node's output, to which the rows [batch, ...] are extended after the first axis.
    """

    rank: int


# What a node needs of each input; None: the input as it is.
Needs = list[Cut | Row | None]
Rule = Callable[[ir.Node, int], Needs | None]


def dims_of(value: ir.Value | None) -> list[Dim] | None:
    """Sizes or names of a value's axes; None if its rank is not known."""
    if value is None:
        return None
    if value.shape is not None:
        return [size if isinstance(size, int) else size.value for size in value.shape]
    producer = value.producer()
    # The exporter and the conversion to int8 give some results no shape.
    if producer is None or RULES.get(producer.op_type) not in (_elementwise, _quantize):
        return None
    inputs = producer.inputs[:1] if producer.op_type in _QUANTIZING else producer.inputs
    return _broadcast([dims_of(item) for item in inputs])


def _broadcast(shapes: Sequence[list[Dim] | None]) -> list[Dim] | None:
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    rank = max(map(len, known))
    ones: list[Dim] = [1]
    padded = zip(*(ones * (rank - len(shape)) + shape for shape in known), strict=True)
    sizes = [{size for size in axis if size != 1} for axis in padded]
    return [None if len(found) > 1 else next(iter(found), 1) for found in sizes]


def _elementwise(node: ir.Node, axis: int) -> Needs | None:
    """Operators whose inputs are broadcast to the shape of the output."""
    dims = dims_of(node.outputs[0])
    if dims is None:
        return None
    needs: Needs = []
    for value in node.inputs:
        inside = dims_of(value)
        if value is None:
            needs.append(None)
            continue
        if inside is None:
            return None
        place = axis - len(dims) + len(inside)
        if place < 0 or inside[place] == 1:
            needs.append(None)
        elif inside[place] != SEQUENCE:
            return None
        elif place == 0:
            needs.append(Row(len(dims)))
        else:
            needs.append(Cut(place))
    return needs


def _first(node: ir.Node, axis: int) -> Needs:
    """Operators that compute each position of the first input alone; the others are settings."""
    return [Cut(axis), *([None] * (len(node.inputs) - 1))]


def _quantize(node: ir.Node, axis: int) -> Needs | None:
    # A scale for each channel would be fine too, but no activation has one.
    return _first(node, axis) if dims_of(node.inputs[1]) in ([], [1]) else None


def _normalize(node: ir.Node, axis: int) -> Needs | None:
    dims = dims_of(node.inputs[0])
    if dims is None:
        return None
    start = node.attributes.get_int("axis", -1)
    return _first(node, axis) if axis < start % len(dims) else None


def _along(node: ir.Node, axis: int) -> Needs | None:
    """Operators that work along one axis, which must be another."""
    dims = dims_of(node.inputs[0])
    if dims is None or node.attributes.get_int("axis", -1) % len(dims) == axis:
        return None
    return _first(node, axis)


def _concat(node: ir.Node, axis: int) -> Needs | None:
    dims = dims_of(node.outputs[0])
    if dims is None or node.attributes.get_int("axis", 0) % len(dims) == axis:
        return None
    return [Cut(axis) for _ in node.inputs]


def _reduce(node: ir.Node, axis: int) -> Needs | None:
    dims, axes = dims_of(node.inputs[0]), constants_of(node, 1)
    if dims is None or axes is None or node.attributes.get_int("keepdims", 1) != 1:
        return None
    return None if axis in {place % len(dims) for place in axes} else _first(node, axis)


def _matmul(node: ir.Node, axis: int) -> Needs | None:
    """Rows of a product: the left factor's rows, or a position within the batch of a product with a weight."""
    out, left, right = dims_of(node.outputs[0]), dims_of(node.inputs[0]), dims_of(node.inputs[1])
    if out is None or left is None or right is None or len(left) != len(out):
        return None
    if axis == len(out) - 2 or (axis < len(out) - 2 and len(right) == 2):
        return [Cut(axis), None]
    return None


def _transpose(node: ir.Node, axis: int) -> Needs | None:
    order = node.attributes.get_ints("perm")
    return None if order is None else [Cut(order[axis])]


def _reshape(node: ir.Node, axis: int) -> Needs | None:
    """Splitting or joining axes after the position."""
    inside, outside = dims_of(node.inputs[0]), dims_of(node.outputs[0])
    if inside is None or outside is None or inside[: axis + 1] != outside[: axis + 1]:
        return None
    if inside[:axis].count(BATCH) > 1 or outside[0] != BATCH:
        return None
    return (
        [Cut(axis), None] if all(isinstance(size, int) for size in [*outside[1:axis], *outside[axis + 1 :]]) else None
    )


def _unsqueeze(node: ir.Node, axis: int) -> Needs | None:
    outside, axes = dims_of(node.outputs[0]), constants_of(node, 1)
    if outside is None or axes is None:
        return None
    added = {place % len(outside) for place in axes}
    return None if axis in added else [Cut(axis - sum(place < axis for place in added)), None]


def _squeeze(node: ir.Node, axis: int) -> Needs | None:
    inside, axes = dims_of(node.inputs[0]), constants_of(node, 1)
    if inside is None or axes is None:
        return None
    removed = {place % len(inside) for place in axes}
    kept = [place for place in range(len(inside)) if place not in removed]
    return [Cut(kept[axis]), None] if axis < len(kept) else None


def _slice(node: ir.Node, axis: int) -> Needs | None:
    dims, axes = dims_of(node.inputs[0]), constants_of(node, 3)
    if dims is None or axes is None:
        return None
    return None if axis in {place % len(dims) for place in axes} else _first(node, axis)


def _gather(node: ir.Node, axis: int) -> Needs | None:
    """A lookup along another axis with constant places, as of one part of queries, keys and values."""
    data, places = dims_of(node.inputs[0]), node.inputs[1]
    if data is None or places is None or not places.is_initializer():
        return None
    rank, along = len(dims_of(places) or ()), node.attributes.get_int("axis", 0) % len(data)
    if axis < along:
        return [Cut(axis), None]
    return [Cut(axis - rank + 1), None] if axis >= along + rank else None


def _expand(node: ir.Node, axis: int) -> Needs | None:
    """Repeating one row for all positions: the row itself is what one position needs."""
    inside, outside = dims_of(node.inputs[0]), dims_of(node.outputs[0])
    if inside is None or outside is None or len(inside) != len(outside) or inside[axis] != 1:
        return None
    same = inside[:axis] == outside[:axis] and inside[axis + 1 :] == outside[axis + 1 :]
    return [None, None] if same else None


def _attention(node: ir.Node, axis: int) -> Needs | None:
    """Queries and rows of the mask are cut; keys and values are not."""
    queries = dims_of(node.inputs[0])
    if queries is None or len(node.inputs) > 4 or len(node.outputs) > 1 or node.attributes.get_int("is_causal", False):
        return None
    if axis != len(queries) - 2:
        return None
    needs: Needs = [Cut(axis), None, None]
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return needs
    mask = dims_of(node.inputs[3])
    if mask is None or len(mask) != 4:
        return None
    return [*needs, None if mask[2] == 1 else Cut(2)]


def _rotary(node: ir.Node, axis: int) -> Needs | None:
    data = dims_of(node.inputs[0])
    if data is None or len(node.inputs) != 3 or axis != len(data) - 2:
        return None
    return [Cut(axis), Cut(1), Cut(1)]


def constants_of(node: ir.Node, place: int) -> list[int] | None:
    """The content of an integer input of a node; None if it is not a constant."""
    value = node.inputs[place] if place < len(node.inputs) else None
    if value is None or value.const_value is None:
        return None
    return [int(item) for item in value.const_value.numpy().reshape(-1)]


def _table(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: Mapping[str, Rule] = {
    **_table(
        "Abs Cast Ceil Cos Erf Exp Gelu Identity IsNaN Log Neg Not Reciprocal Relu Sigmoid Sign Sin", _elementwise
    ),
    **_table("Softplus Sqrt Swish Tanh", _elementwise),
    **_table("Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Or Pow Sub Where", _elementwise),
    **dict.fromkeys(_QUANTIZING, _quantize),
    **_table("LayerNormalization RMSNormalization", _normalize),
    **_table("Softmax Split", _along),
    **_table("ReduceMax ReduceMean ReduceSum", _reduce),
    "Attention": _attention,
    "Clip": _first,
    "Concat": _concat,
    "Expand": _expand,
    "Gather": _gather,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "RotaryEmbedding": _rotary,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""The rule of each operator: from a node and the axis of its cut output to the needs of its inputs, or None."""
