"""Making Attention split and join heads itself, without a Transpose for each operand."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["absorb_heads"]

_SWAP = (0, 2, 1, 3)


def absorb_heads(model: ir.Model) -> ir.Model:
    """Change the operands of Attention from [batch, heads, sequence, width] to [batch, sequence, channels].

    The operator takes both forms; with the second, ONNX Runtime copies less memory. A node stays as it is if more than
    a split happens to an operand, such as rotary positions.

    Args:
        model: a traced graph; it is not changed.

    Returns:
        A graph with the same inputs, outputs and numbers.
    """
    changed = model.clone()
    for node in list(changed.graph):
        if node.op_type == "Attention":
            _absorb(changed.graph, node)
    RemoveUnusedNodesPass()(changed)
    return changed


def _absorb(graph: ir.Graph, node: ir.Node) -> None:
    split = [_split(value) for value in node.inputs[:3]]
    joined = _joined(node.outputs[0])
    heads = {_heads(value) for value in node.inputs[:3]}
    if any(value is None for value in split) or joined is None or len(heads) != 1:
        return
    (count,) = heads
    if count is None or len(node.inputs) > 4 or len(node.outputs) > 1:
        return
    attributes = [*node.attributes.values(), ir.AttrInt64("q_num_heads", count), ir.AttrInt64("kv_num_heads", count)]
    merged = ir.Node("", "Attention", [*split, *node.inputs[3:]], attributes, metadata_props=dict(node.metadata_props))
    result, name = merged.outputs[0], joined.name
    result.type, result.shape = joined.type, joined.shape
    graph.insert_before(node, [merged])
    ir.convenience.replace_all_uses_with(joined, result, replace_graph_outputs=True)
    joined.name, result.name = f"{name}.joined", name


def _split(value: ir.Value | None) -> ir.Value | None:
    """The value before it was split into heads; None if anything else happened to it."""
    transpose = _producer(value, "Transpose")
    if transpose is None or tuple(transpose.attributes["perm"].as_ints()) != _SWAP:
        return None
    reshape = _producer(transpose.inputs[0], "Reshape")
    source = reshape.inputs[0] if reshape is not None else None
    return source if source is not None and source.shape is not None and len(source.shape) == 3 else None


def _joined(value: ir.Value) -> ir.Value | None:
    """The value after heads were joined; None if anything else happens to them."""
    transpose = _only_use(value, "Transpose")
    if transpose is None or tuple(transpose.attributes["perm"].as_ints()) != _SWAP:
        return None
    reshape = _only_use(transpose.outputs[0], "Reshape")
    joined = reshape.outputs[0] if reshape is not None else None
    return joined if joined is not None and joined.shape is not None and len(joined.shape) == 3 else None


def _heads(value: ir.Value | None) -> int | None:
    """Number of heads of a value [batch, heads, sequence, width]."""
    if value is None or value.shape is None or len(value.shape) != 4:
        return None
    return value.shape[1] if isinstance(value.shape[1], int) else None


def _producer(value: ir.Value | None, kind: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind else None


def _only_use(value: ir.Value, kind: str) -> ir.Node | None:
    nodes = [use.node for use in value.uses()]
    if len(nodes) != 1 or value.is_graph_output():
        return None
    return nodes[0] if nodes[0].op_type == kind else None
