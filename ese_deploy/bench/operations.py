"""The number of operations of a graph, counted in the graph itself."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from ese_deploy.errors import EngineError

__all__ = ["OperationCount", "count_operations"]

_COUNTED = ("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "Attention")


def count_operations(graph: bytes, batch: int, sequence: int) -> int:
    """Operations of all matrix products of a graph, a multiplication and an addition counting as two.

    Counted are ``MatMul`` and its integer variants, ``Gemm``, and both products of ``Attention``. Norms, activations,
    softmax and pooling are not: they are under 1% of a transformer's arithmetic.

    Args:
        graph: an ONNX model with the axes ``batch`` and ``sequence``.
        batch: rows.
        sequence: tokens of each row.

    Raises:
        EngineError: the shape of a factor cannot be inferred.
    """
    model = onnx.ModelProto.FromString(graph)
    sizes = {"batch": batch, "sequence": sequence}
    for value in model.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in sizes:
                axis.dim_value = sizes[axis.dim_param]
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: _shape(value) for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    shapes |= {value.name: list(value.dims) for value in inferred.initializer}
    return sum(_products(node, shapes) for node in inferred.node if node.op_type in _COUNTED)


@dataclass(frozen=True)
class OperationCount:
    """Operations of one graph at any length of one text.

    A transformer's count is a polynomial of degree two in the tokens of a text; it is fitted to three exact counts of
    what one more text adds to a batch. What is computed once per batch, such as DeBERTa's relative positions, is left
    out.

    Attributes:
        coefficients: factor of tokens squared, factor of tokens, constant.
    """

    coefficients: tuple[int, int, int]

    @classmethod
    def of(cls, graph: bytes) -> "OperationCount":
        """Count a graph at three lengths, and check a fourth.

        Raises:
            EngineError: a shape cannot be inferred, or the count is not such a polynomial.
        """
        lengths = np.array([8, 16, 48])
        counts = [_one_more(graph, int(length)) for length in lengths]
        square, linear, constant = np.linalg.solve(np.vander(lengths, 3).astype(float), np.array(counts, float))
        found = cls((round(square), round(linear), round(constant)))
        exact = _one_more(graph, 40)
        if not math.isclose(found([40]), exact, rel_tol=1e-9):
            raise EngineError(
                f"The operations of this graph do not follow a polynomial: {found([40]):.0f} is not {exact}."
            )
        return found

    def __call__(self, lengths: Iterable[int]) -> float:
        """Operations of texts with these numbers of tokens, without padding."""
        square, linear, constant = self.coefficients
        return float(sum(square * n * n + linear * n + constant for n in lengths))


def _one_more(graph: bytes, length: int) -> int:
    # From 2 rows to 3: ONNX's shape inference fails for a batch of 1.
    return count_operations(graph, 3, length) - count_operations(graph, 2, length)


def _shape(value: onnx.ValueInfoProto) -> list[int | None]:
    return [axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim]


def _products(node: onnx.NodeProto, shapes: dict[str, list[int | None]]) -> int:
    if node.op_type == "Attention":
        query, key, value = (_known(node, name, shapes) for name in node.input[:3])
        if len(query) == 3:
            heads = {attribute.name: attribute.i for attribute in node.attribute}["q_num_heads"]
            groups = {attribute.name: attribute.i for attribute in node.attribute}["kv_num_heads"]
            query = [query[0], heads, query[1], query[2] // heads]
            key, value = ([item[0], groups, item[1], item[2] // groups] for item in (key, value))
        rows, heads, length, width = query
        return 2 * rows * heads * length * key[2] * (width + value[3])
    first = _known(node, node.input[0], shapes)
    out = _known(node, node.output[0], shapes)
    if node.op_type == "Gemm" and any(item.name == "transA" and item.i for item in node.attribute):
        return 2 * math.prod(out) * first[0]
    return 2 * math.prod(out) * first[-1]


def _known(node: onnx.NodeProto, name: str, shapes: dict[str, list[int | None]]) -> list[int]:
    shape = shapes.get(name)
    if shape is None or None in shape:
        raise EngineError(f"Cannot infer the shape of {name} at node {node.name} ({node.op_type}): {shape}.")
    return [size for size in shape if size is not None]
