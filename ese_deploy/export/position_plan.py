"""Which nodes of a graph can compute a pooled position only: as far back as nothing else needs other positions."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import onnx_ir as ir

from ese_deploy.export.position_rules import BATCH, RULES, SEQUENCE, Cut, Needs, dims_of

__all__ = ["Plan", "Selection", "Step", "find_selections", "is_cut", "is_stuck", "make_plan", "step_of"]


@dataclass(frozen=True)
class Selection:
    """A value is needed at one position of each text only.

    Attributes:
        axis: the axis of the positions.
        places: int64 [batch, 2], the text and the position of each row, as GatherND takes them.
    """

    axis: int
    places: ir.Value


@dataclass(frozen=True)
class Step:
    """A node that is going to compute one position: the selection of its outputs, and what its inputs have to be."""

    selection: Selection
    needs: Needs


Plan = dict[ir.Node, Step]


def find_selections(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that look up one position of each text."""
    return [node for node in graph if _selects(node)]


def make_plan(graph: ir.Graph, selections: Sequence[ir.Node]) -> Plan:
    """Find the nodes whose results are read at the positions of ``selections`` only and that can compute them alone."""
    blocked: set[ir.Node] = set()
    while True:
        plan = _plan(graph, selections, blocked)
        stuck = {node for node, step in plan.items() if is_stuck(node, step, plan)}
        if not stuck:
            return plan
        blocked |= stuck


def _selects(node: ir.Node) -> bool:
    """Whether a node looks up one position of each text: row b of its places is b and a position."""
    if node.op_type != "GatherND" or node.attributes.get_int("batch_dims", False):
        return False
    states, places = node.inputs
    joined = None if places is None else places.producer()
    dims = dims_of(states)
    if dims is None or len(dims) != 3 or dims[:2] != [BATCH, SEQUENCE] or dims_of(places) != [BATCH, 2]:
        return False
    if joined is None or joined.op_type != "Concat" or len(joined.inputs) != 2:
        return False
    return all(dims_of(part) == [BATCH, 1] for part in joined.inputs) and _counts(joined.inputs[0])


def _counts(value: ir.Value | None) -> bool:
    """Whether a value is 0, 1, 2 and so on."""
    unsqueeze = None if value is None else value.producer()
    counted = unsqueeze.inputs[0] if unsqueeze is not None and unsqueeze.op_type == "Unsqueeze" else None
    producer = None if counted is None else counted.producer()
    if producer is None or producer.op_type != "Range":
        return False
    start, _, step = producer.inputs
    return [_scalar(start), _scalar(step)] == [0, 1]


def _scalar(value: ir.Value | None) -> int | None:
    return None if value is None or value.const_value is None else int(value.const_value.numpy().reshape(-1)[0])


def _plan(graph: ir.Graph, selections: Sequence[ir.Node], blocked: set[ir.Node]) -> Plan:
    """Find which nodes can compute one position, from the outputs to the inputs."""
    # What the readers of each value need of it.
    demands: dict[ir.Value, Selection | None] = dict.fromkeys(graph.outputs)
    plan: Plan = {}

    def need(value: ir.Value | None, demand: Selection | None) -> None:
        if value is not None:
            demands[value] = demand if demands.get(value, demand) == demand else None

    for node in reversed(graph):
        if node in selections:
            states, places = node.inputs
            assert places is not None
            need(states, Selection(1, places))
            need(places, None)
            continue
        wanted = {demands[value] for value in node.outputs if value in demands}
        if not wanted:
            continue
        step = None if node in blocked else step_of(node, wanted)
        if step is not None:
            plan[node] = step
        for place, value in enumerate(node.inputs):
            cut = None if step is None else step.needs[place]
            need(value, Selection(cut.axis, step.selection.places) if step and isinstance(cut, Cut) else None)
    return plan


def step_of(node: ir.Node, wanted: Set[Selection | None]) -> Step | None:
    """What a node needs to compute its outputs at one position; None if it cannot.

    Args:
        node: the node.
        wanted: what the readers of its outputs need; None among them stands for all positions.
    """
    selection = next(iter(wanted))
    rule = RULES.get(node.op_type)
    if len(wanted) > 1 or selection is None or rule is None:
        return None
    needs = rule(node, selection.axis)
    return None if needs is None or not _fits(node, needs) else Step(selection, needs)


def _fits(node: ir.Node, needs: Needs) -> bool:
    """Whether every cut axis counts tokens, and the first axis texts as far as the graph knows."""
    for value, need in zip(node.inputs, needs, strict=True):
        dims = dims_of(value)
        if isinstance(need, Cut) and (not dims or dims[0] not in (BATCH, None) or dims[need.axis] != SEQUENCE):
            return False
    return True


def is_stuck(node: ir.Node, step: Step, plan: Plan) -> bool:
    """Whether an input would have to be looked up and its first axis is not known."""
    return any(
        isinstance(need, Cut) and not is_cut(value, plan) and (dims_of(value) or [None])[0] != BATCH
        for value, need in zip(node.inputs, step.needs, strict=True)
    )


def is_cut(value: ir.Value | None, plan: Plan) -> bool:
    """Whether a planned node computes the value, at one position only."""
    producer = None if value is None else value.producer()
    return producer is not None and producer in plan
