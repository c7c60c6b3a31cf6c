"""Converting a graph to fp16 or bf16, except where rounding or range would change vectors too much.

These stay in fp32: statistics of norms, norms that torch decomposed, softmax, rotary angles, values that become
indices, and everything after the backbone: pooling, Dense modules, projection, truncation and normalization.
"""

import ast
from collections.abc import Iterable, Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ese_deploy.errors import InputError
from ese_deploy.export.quantize import is_token_table

__all__ = ["to_half"]

_FLOAT = ir.DataType.FLOAT
_HALVES = {ir.DataType.FLOAT16: "fp16", ir.DataType.BFLOAT16: "bf16"}

# Operators that move values without computing: they keep the dtype of their inputs.
_MOVES = frozenset({"Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad"}) | {
    *("Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where")
}
# A module with such operators is a norm that torch decomposed; all of it stays in fp32.
_STATISTICS = frozenset({"ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
_WIDE = frozenset({"Softmax", "LogSoftmax", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", *_STATISTICS})
# Norms as one operator: the attribute stash_type keeps their statistics in fp32.
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})

# For operators whose outputs can lack a type: the input that has the same type.
_TYPED_BY = {"Cos": 0, "Sin": 0, "Mul": 0, "DequantizeLinear": 1, "QuantizeLinear": 2}

_SCOPES = "pkg.torch.onnx.name_scopes"
_BACKBONE = "exits.backbone"


def to_half(model: ir.Model, dtype: ir.DataType) -> ir.Model:
    """Convert a traced model to fp16 or bf16.

    Args:
        model: the graph with every exit, in fp32, with torch's name scopes; it is not changed.
        dtype: ``FLOAT16`` or ``BFLOAT16``.

    Returns:
        A graph of the same inputs and fp32 outputs.

    Raises:
        InputError: a value has no dtype, or the model has functions.
    """
    if model.functions:
        raise InputError(f"The traced graph contains functions, which cannot be converted to {_HALVES[dtype]}.")
    half = model.clone()
    graph = half.graph
    _drop_guards(graph)
    nodes = list(graph)
    wide = _wide_nodes(nodes)
    casts = _Casts(graph, dtype)
    for node in nodes:
        _state_dtypes(node)
        _convert(node, casts, node in wide)
    for place, value in enumerate(graph.outputs):
        if value.dtype == dtype:
            name, value.name = value.name, f"{value.name}.{_HALVES[dtype]}"
            graph.outputs[place] = casts.cast(value, _FLOAT)
            graph.outputs[place].name = name
    return half


def _drop_guards(graph: ir.Graph) -> None:
    """Remove what torch puts between softmax and the next product, so that TensorRT recognizes attention.

    torch replaces NaN of softmax by zeros. With masks of finite numbers, softmax gives no NaN.
    """
    for node in list(graph):
        if node.op_type != "Where":
            continue
        guard, _, result = node.inputs
        asked, softmax = (None if value is None else value.producer() for value in (guard, result))
        if asked is None or softmax is None or (asked.op_type, softmax.op_type) != ("IsNaN", "Softmax"):
            continue
        assert result is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], result)
        graph.remove([node, asked], safe=True)


def _state_dtypes(node: ir.Node) -> None:
    """Set missing types of outputs: angles of rotary embeddings, and quantized values."""
    place = _TYPED_BY.get(node.op_type)
    typed = None if place is None else node.inputs[place]
    for value in node.outputs:
        if value.dtype is None and typed is not None:
            value.type = typed.type


def _convert(node: ir.Node, casts: "_Casts", wide: bool) -> None:
    """Cast the inputs of a node to the dtype that it computes in, and set the dtype of its outputs."""
    if node.op_type in ("Cast", "ConstantOfShape"):
        _convert_typed(node, casts.half, wide)
        return
    floats = [value for value in node.inputs if value is not None and _is_float(value)]
    if not floats:
        return
    results = [value for value in node.outputs if _is_float(value)]
    if not results and node.op_type != "QuantizeLinear":
        if len({value.dtype for value in floats}) > 1:  # a comparison
            casts.replace(node, _FLOAT)
        return
    dtype = _FLOAT if wide else casts.half
    if node.op_type in _MOVES:
        moved = {value.dtype for value in floats if not value.is_initializer()}
        dtype = (casts.half if casts.half in moved else _FLOAT) if moved else dtype
    elif node.op_type in _NORMS:
        dtype = casts.half
        node.attributes["stash_type"] = ir.AttrInt64("stash_type", int(_FLOAT))
    casts.replace(node, dtype)
    for value in results:
        value.type = ir.TensorType(dtype)  # a clone shares its types with the original


def _convert_typed(node: ir.Node, half: ir.DataType, wide: bool) -> None:
    """Convert a node whose attributes set the dtype of its output."""
    (result,) = node.outputs
    if result.dtype != _FLOAT or wide:
        return
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", int(half))
    else:
        value = node.attributes["value"].as_tensor()
        node.attributes["value"] = ir.AttrTensor("value", _narrow(value, value.name or "", half))
    result.type = ir.TensorType(half)


class _Casts:
    """Gives values in another dtype: a converted copy of a weight, or a Cast after the node that computes the value."""

    def __init__(self, graph: ir.Graph, half: ir.DataType) -> None:
        self._graph = graph
        self.half = half
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def replace(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Replace the float inputs of a node by values of ``dtype``."""
        for place, value in enumerate(node.inputs):
            if value is not None and _is_float(value) and value.dtype != dtype:
                node.replace_input_with(place, self.cast(value, dtype))

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        key = (value, dtype)
        if key not in self._made:
            name = f"{value.name}.{_HALVES.get(dtype, 'fp32')}"
            self._made[key] = self._copy(value, name) if value.is_initializer() else self._node(value, name, dtype)
        return self._made[key]

    def _copy(self, value: ir.Value, name: str) -> ir.Value:
        assert value.const_value is not None
        tensor = _narrow(value.const_value, name, self.half)
        copy = ir.Value(name=name, const_value=tensor, type=ir.TensorType(self.half), shape=value.shape)
        self._graph.register_initializer(copy)
        return copy

    def _node(self, value: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
        producer = value.producer()
        if producer is None:
            raise InputError(f"The input {value.name} is not an integer and cannot be converted.")
        node = ir.node("Cast", [value], {"to": int(dtype)})
        (result,) = node.outputs
        result.name, result.type, result.shape = name, ir.TensorType(dtype), value.shape
        self._graph.insert_after(producer, node)
        return result


def _narrow(tensor: ir.TensorProtocol, name: str, half: ir.DataType) -> ir.TensorProtocol:
    """Round a tensor. Values beyond the range, such as those of masks, become the largest finite value."""
    dtype = half.numpy()
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return ir.Tensor(np.clip(tensor.numpy(), -largest, largest).astype(dtype), name=name, dtype=half)


def _wide_nodes(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """The nodes that compute in fp32."""
    nodes = list(nodes)
    modules = {node: _module(node) for node in nodes}
    norms = {modules[node] for node in nodes if node.op_type in _STATISTICS}
    wide = {
        node for node in nodes if node.op_type in _WIDE or modules[node] in norms or not _in_backbone(modules[node])
    }
    # Token vectors are rounded once, which halves the table; their sums are computed in fp32.
    wide -= {node for node in nodes if is_token_table(node)}
    return wide | set(_feeding(node for node in nodes if node.op_type in ("Cos", "Sin") or _makes_index(node)))


def _module(node: ir.Node) -> tuple[str, ...] | None:
    """The PyTorch modules that a node comes from, outermost first; None if the node does not name them."""
    scopes = node.metadata_props.get(_SCOPES)
    return None if scopes is None else tuple(ast.literal_eval(scopes)[:-1])


def _in_backbone(module: tuple[str, ...] | None) -> bool:
    return module is None or any(scope.startswith(_BACKBONE) for scope in module)


def _makes_index(node: ir.Node) -> bool:
    """Whether a node converts floats to integers, which earlier rounding could change."""
    if node.op_type != "Cast" or node.inputs[0] is None or not _is_float(node.inputs[0]):
        return False
    dtype = node.outputs[0].dtype
    return dtype is not None and dtype.is_integer()


def _feeding(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Nodes and everything that they depend on."""
    seen: set[ir.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            producers = (value.producer() for value in node.inputs if value is not None)
            waiting += [producer for producer in producers if producer is not None]


def _is_float(value: ir.Value) -> bool:
    if value.dtype is None:
        raise InputError(f"The traced graph has no dtype for {value.name} and cannot be converted.")
    return value.dtype == _FLOAT or value.dtype in _HALVES
