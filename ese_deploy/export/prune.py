"""Leaving out what pooling of one position does not read.

Pooling by the first or the last token reads one position of the last layer. The layer then needs keys and values of all
positions, but query, attention output and feed-forward of that position only. The vectors are the same up to rounding.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ese_deploy.export.position_plan import Plan, Selection, Step, find_selections, is_cut, is_stuck, make_plan, step_of
from ese_deploy.export.position_rules import Cut, Row, dims_of

__all__ = ["prune_positions"]

# Operators that are repeated on one position instead of looking up in their result: engines find integer products by
# the operators before them, and masks are made of few small tensors.
_REPEATED = ("And", "Cast", "DequantizeLinear", "Expand", "Not", "Or", "QuantizeLinear", "Where")


def prune_positions(graph: ir.Graph) -> None:
    """Change a graph in place so that it computes a pooled position only, as far back as nothing else needs others.

    What can be left out is found in the graph: poolings that read all positions, architectures with operators without a
    rule, and states that later layers read leave a graph, or the part of it before them, as it is.

    Args:
        graph: the graph of one target. The axes of its values are named ``batch`` and ``sequence``.
    """
    selections = find_selections(graph)
    plan = make_plan(graph, selections)
    # Moves and norms alone are not worth the lookups.
    if any(node.op_type == "MatMul" for node in plan):
        _Pruning(graph, plan).apply(selections)
        graph.sort()
        for node in reversed(graph):
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                graph.remove(node, safe=True)


class _Pruning:
    """Applies a plan to a graph."""

    def __init__(self, graph: ir.Graph, plan: Plan) -> None:
        self._graph = graph
        self._plan = plan
        self._made: dict[tuple[ir.Value, Selection, Row | None], ir.Value] = {}
        self._positions: dict[ir.Value, ir.Value] = {}
        self._count = 0

    def apply(self, selections: Sequence[ir.Node]) -> None:
        """Make the planned nodes compute one position, and the lookups of pooling read it."""
        for node, step in self._plan.items():
            self._change(node, step)
        for node in selections:
            states = node.inputs[0]
            if states is not None and is_cut(states, self._plan):
                whole = node.outputs[0]
                pooled = self._add("Squeeze", [states, self._integers([1])], whole, (), whole.shape)
                name = node.outputs[0].name
                ir.convenience.replace_all_uses_with(node.outputs[0], pooled, replace_graph_outputs=True)
                node.outputs[0].name, pooled.name = f"{name}.all", name

    def _change(self, node: ir.Node, step: Step) -> None:
        axis = step.selection.axis
        if node.op_type == "Expand":  # it repeats one row for all positions
            row = node.inputs[0]
            assert row is not None
            ir.convenience.replace_all_uses_with(node.outputs[0], row)
            return
        if node.op_type == "Reshape":
            node.replace_input_with(1, self._shape(node, axis))
        for place, value in enumerate(self._inputs(node, step)):
            node.replace_input_with(place, value)
        for value in node.outputs:
            value.shape = _cut_shape(value, axis)

    def _inputs(self, node: ir.Node, step: Step) -> list[ir.Value | None]:
        """What a node that computes one position reads."""
        inputs: list[ir.Value | None] = []
        for value, need in zip(node.inputs, step.needs, strict=True):
            if value is None or need is None or (isinstance(need, Cut) and is_cut(value, self._plan)):
                inputs.append(value)
            elif isinstance(need, Cut):
                inputs.append(self._look_up(value, Selection(need.axis, step.selection.places)))
            else:
                inputs.append(self._rows(value, need, step.selection))
        return inputs

    def _look_up(self, value: ir.Value, selection: Selection) -> ir.Value:
        """One position of each text of a value that is computed at all positions: its size along the axis is 1."""
        key = (value, selection, None)
        if key not in self._made:
            self._made[key] = self._repeat(value, selection) or self._gather(value, selection)
        return self._made[key]

    def _repeat(self, value: ir.Value, selection: Selection) -> ir.Value | None:
        """Compute one position again from one position of the inputs."""
        node = value.producer()
        step = step_of(node, {selection}) if node is not None and node.op_type in _REPEATED else None
        if node is None or step is None or is_stuck(node, step, {}):
            return None
        inputs = self._inputs(node, step)
        if node.op_type == "Expand":
            return inputs[0]
        return self._add(node.op_type, inputs, value, list(node.attributes.values()), _cut_shape(value, selection.axis))

    def _gather(self, value: ir.Value, selection: Selection) -> ir.Value:
        axis, places = selection.axis, selection.places
        dims = dims_of(value)
        assert dims is not None
        moved = value
        if value.dtype == ir.DataType.BOOL:  # ONNX Runtime's GatherND takes none on GPUs
            moved = self._cast(moved, ir.DataType.FLOAT)
        if axis > 1:
            order = [0, axis, *(place for place in range(1, len(dims)) if place != axis)]
            moved = self._add("Transpose", [moved], moved, [ir.AttrInt64s("perm", order)])
        row = self._add("GatherND", [moved, places], moved)
        row = self._add("Unsqueeze", [row, self._integers([axis])], row, (), _cut_shape(value, axis))
        return row if row.dtype == value.dtype else self._cast(row, ir.DataType.BOOL)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        result = self._add("Cast", [value], value, [ir.AttrInt64("to", int(dtype))], value.shape)
        result.type = ir.TensorType(dtype)
        return result

    def _rows(self, value: ir.Value, need: Row, selection: Selection) -> ir.Value:
        """One row of a value [sequence, ...] for each text, extended to the rank that its reader has."""
        key = (value, selection, need)
        if key not in self._made:
            first = ir.AttrInt64("axis", 0)
            rows = self._add("Gather", [value, self._position(selection.places)], value, [first])
            added = need.rank - len(dims_of(value) or ())
            if added:
                rows = self._add("Unsqueeze", [rows, self._integers(list(range(1, 1 + added)))], value)
            self._made[key] = rows
        return self._made[key]

    def _position(self, places: ir.Value) -> ir.Value:
        """The second column of places, int64 [batch]."""
        if places not in self._positions:
            column = [places, self._integers(1)]
            self._positions[places] = self._add("Gather", column, places, [ir.AttrInt64("axis", 1)])
        return self._positions[places]

    def _shape(self, node: ir.Node, axis: int) -> ir.Value:
        """The shape that Reshape gives one position; 0 keeps the number of texts."""
        node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
        dims = dims_of(node.outputs[0]) or []
        return self._integers([0, *(1 if place == axis else int(str(dims[place])) for place in range(1, len(dims)))])

    def _add(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        like: ir.Value,
        attributes: Sequence[ir.Attr] = (),
        shape: ir.Shape | None = None,
    ) -> ir.Value:
        """Append a node whose result has the dtype of another value. The graph is sorted afterwards."""
        node = ir.Node("", kind, inputs, attributes)
        (result,) = node.outputs
        result.type, result.shape = like.type, shape
        result.name = self._name(f"{like.name}.one")
        self._graph.append(node)
        return result

    def _integers(self, numbers: int | list[int]) -> ir.Value:
        """An int64 constant."""
        name = f"position.{numbers}" if isinstance(numbers, int) else f"positions.{'.'.join(map(str, numbers))}"
        if name not in self._graph.initializers:
            array = np.array(numbers, np.int64)
            value = ir.Value(name=name, const_value=ir.Tensor(array, name=name), shape=ir.Shape(array.shape))
            value.type = ir.TensorType(ir.DataType.INT64)
            self._graph.register_initializer(value)
        return self._graph.initializers[name]

    def _name(self, wanted: str) -> str:
        self._count += 1
        return f"{wanted}{self._count}"


def _cut_shape(value: ir.Value, axis: int) -> ir.Shape | None:
    return None if value.shape is None else ir.Shape([1 if at == axis else size for at, size in enumerate(value.shape)])
