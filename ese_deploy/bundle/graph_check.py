"""Checking a graph before an inference engine sees it.

Engines trust their graphs: a hostile one can read memory, open other files, run for ever or fill the memory. What is
allowed is what the exporter writes, see :mod:`ese_deploy.bundle.operators`.
"""

import hashlib
import math
import struct
from dataclasses import dataclass

from ese_deploy.bundle.graph_reader import AttributeValue, Graph, Node, Tensor, ValueInfo, read_graph_file
from ese_deploy.bundle.graph_sizes import SIZED_OPERATORS, largest_sizes, small_integers
from ese_deploy.bundle.operators import OPERATORS
from ese_deploy.errors import BundleError

__all__ = ["MAX_GRAPH_BYTES", "GraphFacts", "GraphRules", "check_graph"]

MAX_GRAPH_BYTES = 4 << 20
"""Most bytes of a graph. Those of a model with 24 layers have 0.2 MB."""

_FLOAT, _INT64 = 1, 7
# Bytes of an element by the number of its type in ONNX: float, uint8, int8, int32, int64, bool, float16, bfloat16.
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 16: 2}
_INTEGERS = {6: "i", 7: "q"}
_INLINE_BYTES = 1 << 16
_IR_VERSIONS = range(8, 14)
# Equal tensors are stored once, so a graph may read a part of the weights more than once.
_MAX_REUSE = 4
_SPARE_BYTES = 16 << 20
_MAX_INPUTS = 32
_BATCH, _SEQUENCE = 2, 256
_FREE_INTEGER = 1 << 31


@dataclass(frozen=True)
class GraphRules:
    """What the manifest says of a graph.

    Attributes:
        weights: name of the weights file of its dtype.
        weights_bytes: its size.
        inputs: names of the inputs.
        output: name of the output.
        dim: dimensions of the output.
        opset: version of the operators.
        max_length: longest row in tokens.
    """

    weights: str
    weights_bytes: int
    inputs: tuple[str, ...]
    output: str
    dim: int
    opset: int
    max_length: int


@dataclass(frozen=True)
class GraphFacts:
    """What a graph shows.

    Attributes:
        vocabulary: rows of the table that token ids are looked up in; None if there is none.
    """

    vocabulary: int | None


def check_graph(graph: bytes, rules: GraphRules) -> GraphFacts:
    """Check that a graph holds only what the exporter writes, and that it fits the manifest.

    The result is kept by the graph's hash.

    Raises:
        BundleError: an operator, attribute, type, place of weights, shape or size is not allowed. The message does not
            name the file.
    """
    if len(graph) > MAX_GRAPH_BYTES:
        raise BundleError(f"it has {len(graph)} bytes, and at most {MAX_GRAPH_BYTES} are allowed")
    digest = hashlib.sha256(graph).digest()
    found = _checked.get((digest, rules))
    if found is None:
        found = _check(graph, rules)
        while len(_checked) >= _KEPT:
            _checked.pop(next(iter(_checked)), None)
        _checked[digest, rules] = found
    return found


_KEPT = 1024
_checked: dict[tuple[bytes, GraphRules], GraphFacts] = {}


def _check(data: bytes, rules: GraphRules) -> GraphFacts:
    graph = read_graph_file(data)
    if graph.ir_version not in _IR_VERSIONS or graph.opset != rules.opset:
        raise BundleError(f"it has IR version {graph.ir_version} and opset {graph.opset}, the manifest {rules.opset}")
    _check_ends(graph, rules)
    constants = {}
    taken = 0
    for tensor in graph.tensors.values():
        taken += _check_tensor(tensor, rules)
        if tensor.dtype in _INTEGERS and small_integers(tensor):
            count = math.prod(tensor.dims)
            constants[tensor.name] = struct.unpack(f"<{count}{_INTEGERS[tensor.dtype]}", tensor.raw)
    if taken > _MAX_REUSE * rules.weights_bytes + _SPARE_BYTES:
        raise BundleError(f"its initializers read {taken} bytes of a weights file of {rules.weights_bytes}")
    _check_nodes(graph)
    sizes = {"batch": _BATCH, "sequence": min(rules.max_length, _SEQUENCE)}
    shapes = largest_sizes(graph, constants, sizes)
    if shapes[rules.output] != (_BATCH, rules.dim):
        raise BundleError(f"its output has the shape {list(shapes[rules.output])} for a batch of {_BATCH}")
    return GraphFacts(_vocabulary(graph))


def _check_ends(graph: Graph, rules: GraphRules) -> None:
    expected = [ValueInfo(name, _INT64, ("batch", "sequence")) for name in rules.inputs]
    if sorted(graph.inputs, key=_name) != sorted(expected, key=_name) or len(set(rules.inputs)) < len(rules.inputs):
        names = ", ".join(f"{value.name} {list(value.axes)}" for value in graph.inputs[:_MAX_INPUTS])
        raise BundleError(f"its inputs are {names}, not int64 [batch, sequence] of {', '.join(rules.inputs)}")
    if graph.outputs != [ValueInfo(rules.output, _FLOAT, ("batch", rules.dim))]:
        names = ", ".join(f"{value.name} {list(value.axes)}" for value in graph.outputs[:_MAX_INPUTS])
        raise BundleError(f"its outputs are {names}, not {rules.output} [batch, {rules.dim}]")


def _name(value: ValueInfo) -> str:
    return value.name


def _check_tensor(tensor: Tensor, rules: GraphRules) -> int:
    """Check where an initializer is, and return the bytes that it reads of the weights file."""
    if tensor.dtype not in _ITEM_BYTES:
        raise BundleError(f"the initializer {tensor.name!r} has the type {tensor.dtype}")
    size = math.prod(tensor.dims) * _ITEM_BYTES[tensor.dtype]
    if tensor.location is None:
        if size != len(tensor.raw) or size > _INLINE_BYTES:
            raise BundleError(f"the initializer {tensor.name!r} has {len(tensor.raw)} bytes for {size}")
        return 0
    if tensor.location != rules.weights:
        raise BundleError(
            f"the initializer {tensor.name!r} is in {tensor.location!r}, and only {rules.weights} is allowed"
        )
    if size != tensor.length or tensor.offset + tensor.length > rules.weights_bytes:
        raise BundleError(
            f"the initializer {tensor.name!r} has {size} bytes and reads {tensor.length} at {tensor.offset} of "
            f"{rules.weights}, which has {rules.weights_bytes}"
        )
    return size


def _check_nodes(graph: Graph) -> None:
    known = {*graph.tensors, *(value.name for value in graph.inputs)}
    for node in graph.nodes:
        _check_node(node)
        for name in node.inputs:
            if name and name not in known:
                raise BundleError(f"{node.op} reads {name!r} before it is computed")
        for name in node.outputs:
            if name in known:
                raise BundleError(f"{name!r} is computed twice")
            if name:
                known.add(name)
    if graph.outputs[0].name in graph.tensors or graph.outputs[0].name not in known:
        raise BundleError("its output is not computed")


def _check_node(node: Node) -> None:
    allowed = OPERATORS.get(node.op)
    if allowed is None or node.op not in SIZED_OPERATORS:
        raise BundleError(f"it has the operator {node.op!r}, which no export writes")
    if not 1 <= len(node.inputs) <= _MAX_INPUTS or not 1 <= len(node.outputs) <= _MAX_INPUTS or not node.outputs[0]:
        raise BundleError(f"{node.op} has {len(node.inputs)} inputs and {len(node.outputs)} outputs")
    for name, value in node.attributes.items():
        if name not in allowed or not _fits(value, allowed[name]):
            raise BundleError(f"{node.op} has the attribute {name} = {value!r:.40}, which no export writes")


def _fits(value: AttributeValue, allowed: object) -> bool:
    """Whether a value is one of a set, or of a type, within its range."""
    if isinstance(allowed, frozenset):
        return value in allowed
    if allowed is tuple:
        return isinstance(value, tuple) and len(value) <= _MAX_INPUTS and all(abs(x) < _FREE_INTEGER for x in value)
    if allowed is int:
        return isinstance(value, int) and abs(value) < _FREE_INTEGER
    return isinstance(value, float) and math.isfinite(value)


def _vocabulary(graph: Graph) -> int | None:
    """Rows of the table that the token ids are looked up in."""
    ids = {"input_ids"}
    rows = []
    for node in graph.nodes:
        if node.op == "Cast" and node.inputs[0] in ids:
            ids.add(node.outputs[0])
        elif node.op == "Gather" and node.inputs[1] in ids and node.inputs[0] in graph.tensors:
            dims = graph.tensors[node.inputs[0]].dims
            rows.append(dims[0] if dims else 0)
    return min(rows, default=None)
