"""Emulating fp16 and bf16 on a CPU: the graph computes in fp32, and the result of each operator is rounded."""

from collections.abc import Sequence
from dataclasses import replace

import onnx
import onnx_ir as ir

from ese_deploy.engines import Engine, EngineInput, Session, runs_dtype

__all__ = ["Emulated", "engine_for", "widen"]

_FLOAT = ir.DataType.FLOAT
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def engine_for(engine: Engine, dtype: str) -> "Engine | Emulated":
    """The engine itself, or its emulation of a dtype that it does not compute in."""
    return engine if runs_dtype(engine.name, dtype) else Emulated(engine)


class Emulated:
    """Runs graphs of fp16 and bf16 on an engine that computes in fp32.

    Args:
        engine: runs the widened graphs.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.device = f"{engine.name}-emulated", engine.device
        self.versions = engine.versions

    def load(self, source: EngineInput, threads: int) -> Session:
        """Load a graph; see :meth:`ese_deploy.engines.base.Engine.load`."""
        return self._engine.load(replace(source, graph=widen(source.graph)), threads)


def widen(graph: bytes, rounding: bool = True) -> bytes:
    """Make a graph of fp16 or bf16 compute in fp32.

    Args:
        graph: the ONNX model; its weights keep their dtype.
        rounding: round every result to the original dtype, with overflow, as an accelerator does. Without it, vectors
            differ from PyTorch's by the rounding of the weights only.

    Returns:
        The ONNX model with a Cast after each weight, and after each result that is rounded.
    """
    model = ir.from_proto(onnx.load_from_string(graph))
    nodes = list(model.graph)
    for value in list(model.graph.initializers.values()):
        if value.dtype in _HALVES:
            _insert_casts(model.graph, value, [_FLOAT])
    for node in nodes:
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _HALVES:
                wide = attribute.as_tensor().numpy().astype("float32")
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(wide))
        for value in node.outputs:
            half = value.dtype
            if half not in _HALVES:
                continue
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", int(_FLOAT))
            value.type = ir.TensorType(_FLOAT)
            if rounding:
                _insert_casts(model.graph, value, [half, _FLOAT])
    widened: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return widened


def _insert_casts(graph: ir.Graph, value: ir.Value, dtypes: Sequence[ir.DataType]) -> None:
    """Insert a chain of Casts between a value and its uses."""
    uses = list(value.uses())
    producer = value.producer()
    made = []
    last = value
    for dtype in dtypes:
        node = ir.node("Cast", [last], {"to": int(dtype)})
        (last,) = node.outputs
        last.name, last.type, last.shape = f"{value.name}.as_{dtype.name}", ir.TensorType(dtype), value.shape
        made.append(node)
    for user, place in uses:
        user.replace_input_with(place, last)
    if producer is None:
        graph.insert_before(graph[0], made)
    else:
        graph.insert_after(producer, made)
