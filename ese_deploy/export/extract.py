"""Extracting the graph of one target from the traced graph, which has every exit."""

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from ese_deploy.export.projection import append_truncation
from ese_deploy.export.prune import prune_positions
from ese_deploy.export.trace import output_name
from ese_deploy.export.weights import INLINE_BYTES, WeightsFile
from ese_deploy.target import Target

__all__ = ["OUTPUT", "Graph", "extract"]

OUTPUT = "sentence_embedding"


@dataclass(frozen=True)
class Graph:
    """A target's graph.

    Attributes:
        onnx: the serialized model; its large tensors are in the weights file.
        weight_bytes: bytes of the weights file that it reads.
    """

    onnx: bytes
    weight_bytes: int


def extract(model: ir.Model, target: Target, weights: WeightsFile, version: str) -> Graph:
    """Extract the nodes and weights that one target needs.

    Args:
        model: the graph with every exit; it is not changed.
        target: the target.
        weights: the file that the tensors are written to.
        version: version of ese-deploy, named in the graph as its producer.

    Returns:
        The graph, without metadata about the Python code that it was traced from.
    """
    graph = ir.convenience.extract(model.graph, list(model.graph.inputs), [output_name(target.depth)])
    graph.name = target.name
    prune_positions(graph)
    append_truncation(graph, target.dim)
    graph.outputs[0].name = OUTPUT
    _order_initializers(graph)
    placed: dict[int, int] = {}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > INLINE_BYTES:
            external = weights.place(tensor)
            placed[external.offset or 0] = external.length or 0
            value.const_value = external
    extracted = ir.Model(
        graph,
        ir_version=model.ir_version,
        producer_name="ese-deploy",
        producer_version=version,
        doc_string=None,
    )
    _clear_metadata(extracted)
    return Graph(ir.to_proto(extracted).SerializeToString(deterministic=True), sum(placed.values()))


def _order_initializers(graph: ir.Graph) -> None:
    """Sort initializers by the first node that uses them.

    ``extract`` returns them in the order of a set, which differs between runs. Sorted, an export gives the same bytes
    each time, and the weights file is read from front to back.
    """
    used = dict.fromkeys(
        value.name for node in graph for value in node.inputs if value is not None and value.is_initializer()
    )
    unsorted = dict(graph.initializers)
    graph.initializers.clear()
    for name in used:
        if name is not None and name in unsorted:
            graph.initializers[name] = unsorted[name]


def _clear_metadata(model: ir.Model) -> None:
    ClearMetadataAndDocStringPass()(model)
    graph = model.graph
    for value in (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)):
        value.doc_string = None
        value.metadata_props.clear()
