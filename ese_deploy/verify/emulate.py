"""fp16 on a CPU: the same graph computed in fp32, each operator's result rounded to fp16."""

from pathlib import Path

import onnx
import onnx_ir as ir

from ese_deploy.engines import Engine, Session, runs_dtype

__all__ = ["Emulated", "engine_for", "widen"]

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def engine_for(engine: Engine, dtype: str) -> "Engine | Emulated":
    """The engine itself, or its emulation of a dtype that it does not compute in."""
    return engine if runs_dtype(engine.name, dtype) else Emulated(engine)


class Emulated:
    """An engine that does not compute in fp16, running graphs of fp16 as :func:`widen` makes them.

    Args:
        engine: runs the widened graphs.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.device = f"{engine.name}-emulated", engine.device
        self.versions = engine.versions

    def load(self, graph: bytes, folder: Path, threads: int) -> Session:
        """Load a graph; see :meth:`ese_deploy.engines.base.Engine.load`."""
        return self._engine.load(widen(graph), folder, threads)


def widen(graph: bytes, rounding: bool = True) -> bytes:
    """Let a graph of fp16 compute in fp32.

    Args:
        graph: the ONNX model; weights stay where they are, in fp16.
        rounding: round every result to fp16 all the same, overflow included, as an accelerator would. Without it the
            outcome differs from PyTorch's by the rounding of the weights alone.

    Returns:
        The ONNX model with a Cast behind each weight, and behind each result that is rounded.
    """
    model = ir.from_proto(onnx.load_from_string(graph))
    nodes = list(model.graph)
    for value in list(model.graph.initializers.values()):
        if value.dtype == _HALF:
            _widen_value(model.graph, value, rounding=False)
    for node in nodes:
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _HALF:
                tensor = attribute.as_tensor()
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(tensor.numpy().astype("float32")))
        if node.op_type == "Cast" and node.outputs[0].dtype == _HALF:
            node.attributes["to"] = ir.AttrInt64("to", int(_FLOAT))
        for value in node.outputs:
            if value.dtype == _HALF:
                value.dtype = _FLOAT
                if rounding:
                    _widen_value(model.graph, value, rounding=True)
    widened: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return widened


def _widen_value(graph: ir.Graph, value: ir.Value, rounding: bool) -> None:
    """Put a Cast to fp32 behind a value, and before it a Cast to fp16 where it is a result to be rounded."""
    uses = list(value.uses())
    producer = value.producer()
    made = []
    last = value
    for dtype in (_HALF, _FLOAT) if rounding else (_FLOAT,):
        node = ir.node("Cast", [last], {"to": int(dtype)})
        (last,) = node.outputs
        last.name, last.type, last.shape = f"{value.name}.as_{dtype.name}", ir.TensorType(dtype), value.shape
        made.append(node)
    for node, place in uses:
        node.replace_input_with(place, last)
    if producer is None:
        graph.insert_before(graph[0], made)
    else:
        graph.insert_after(producer, made)
