"""How large the tensors of a graph become: shapes are computed for one batch, without running anything.

Each shape is an upper limit. Whether shapes fit each other is left to the engine, which refuses those that do not.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from ese_deploy.bundle.graph_reader import Graph, Node, Tensor
from ese_deploy.errors import BundleError

__all__ = ["SIZED_OPERATORS", "Shape", "largest_sizes", "small_integers"]

Shape = tuple[int, ...]

_MAX_ELEMENTS = 1 << 25
_MAX_LIVE = 1 << 27
_MAX_PRODUCTS = 1 << 34
# How often a weight may be used for each token: models that share layers use it once a layer.
_MAX_USES = 64
_MAX_KNOWN = 64
_MAX_RANK = 8


class _Sizes:
    """Shapes of all values so far, and the content of the small integer tensors from which shapes are made."""

    def __init__(self, constants: Mapping[str, Sequence[int]]) -> None:
        self.shapes: dict[str, Shape] = {}
        self.known: dict[str, tuple[int, ...]] = {name: tuple(values) for name, values in constants.items()}
        self.products = 0

    def shape(self, node: Node, place: int) -> Shape:
        if place >= len(node.inputs) or node.inputs[place] not in self.shapes:
            raise BundleError(f"{node.op} lacks its input {place}")
        return self.shapes[node.inputs[place]]

    def values(self, node: Node, place: int) -> tuple[int, ...]:
        """The content of an input that determines a shape."""
        found = self.maybe(node, place)
        if found is None:
            raise BundleError(f"the shape that {node.op} gives depends on the texts")
        return found

    def maybe(self, node: Node, place: int) -> tuple[int, ...] | None:
        return self.known.get(node.inputs[place]) if place < len(node.inputs) else None


def largest_sizes(graph: Graph, constants: Mapping[str, Sequence[int]], sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Compute the shape of every value.

    Args:
        graph: a graph of operators in :data:`SIZED_OPERATORS`, each after the nodes that it reads.
        constants: the content of small integer initializers.
        sizes: a number for each symbol of the inputs' axes.

    Raises:
        BundleError: a tensor, all tensors together or the work is far beyond what an encoder needs, or a shape depends
            on the texts.
    """
    state = _Sizes(constants)
    for tensor in graph.tensors.values():
        state.shapes[tensor.name] = tensor.dims
    for value in graph.inputs:
        state.shapes[value.name] = tuple(sizes[axis] if isinstance(axis, str) else axis or 1 for axis in value.axes)
    last_use = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    ends: dict[int, int] = {}
    live = 0
    for place, node in enumerate(graph.nodes):
        shapes = SIZED_OPERATORS[node.op](state, node)
        for name, shape in zip(node.outputs, shapes, strict=False):
            elements = math.prod(shape)
            if elements > _MAX_ELEMENTS or len(shape) > _MAX_RANK:
                raise BundleError(f"{node.op} makes a tensor of shape {list(shape)[:_MAX_RANK]}, which is too large")
            state.shapes[name] = shape
            live += elements
            end = last_use.get(name, place)
            ends[end] = ends.get(end, 0) + elements
        if len(node.outputs) > len(shapes):
            raise BundleError(f"{node.op} has {len(node.outputs)} outputs")
        if live > _MAX_LIVE:
            raise BundleError("its tensors together are too large")
        live -= ends.pop(place, 0)
    tokens = math.prod(sizes.values())
    weights = sum(math.prod(tensor.dims) for tensor in graph.tensors.values())
    if state.products > _MAX_PRODUCTS + _MAX_USES * tokens * weights:
        raise BundleError("its matrix products are too large")
    return state.shapes


def _broadcast(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(0 if 0 in axis else max(axis) for axis in zip(*padded, strict=True))


def _axis(node: Node, axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise BundleError(f"{node.op} has the axis {axis} for a tensor of rank {rank}")
    return axis % rank if rank else 0


def _integer(node: Node, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    if not isinstance(value, int):
        raise BundleError(f"{node.op} has an attribute {name} that is not an integer")
    return value


def _same(state: _Sizes, node: Node) -> list[Shape]:
    found = state.maybe(node, 0)
    if found is not None and node.op in ("Cast", "Identity"):
        state.known[node.outputs[0]] = found
    return [state.shape(node, 0)]


_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: int(a / b) if b else 0,
    "Max": max,
    "Min": min,
}


def _wise(state: _Sizes, node: Node) -> list[Shape]:
    shapes = [state.shape(node, place) for place, name in enumerate(node.inputs) if name]
    result = _broadcast(*shapes)
    operation = _ARITHMETIC.get(node.op)
    if operation is not None and len(node.inputs) == 2:
        left, right = state.maybe(node, 0), state.maybe(node, 1)
        if left and right and 1 in (len(left), len(right), len(left) == len(right)):
            count = max(len(left), len(right))
            pairs = zip(*(values * count if len(values) == 1 else values for values in (left, right)), strict=True)
            state.known[node.outputs[0]] = tuple(_bounded(operation(a, b)) for a, b in pairs)
    return [result]


def _bounded(value: int) -> int:
    return max(-(2**63), min(value, 2**63 - 1))


def _shape(state: _Sizes, node: Node) -> list[Shape]:
    shape = state.shape(node, 0)
    cut = shape[_integer(node, "start", 0) : _integer(node, "end", len(shape))]
    state.known[node.outputs[0]] = cut
    return [(len(cut),)]


def _concat(state: _Sizes, node: Node) -> list[Shape]:
    shapes = [state.shape(node, place) for place in range(len(node.inputs))]
    axis = _axis(node, _integer(node, "axis", 0), len(shapes[0]))
    parts = [state.maybe(node, place) for place in range(len(node.inputs))]
    known = [values for values in parts if values is not None]
    if len(known) == len(parts) and sum(map(len, known)) <= _MAX_KNOWN:
        state.known[node.outputs[0]] = tuple(value for values in known for value in values)
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        raise BundleError("Concat joins tensors of several ranks")
    result = [max(sizes) for sizes in zip(*shapes, strict=True)]
    if result:
        result[axis] = sum(shape[axis] for shape in shapes)
    return [tuple(result)]


def _gather(state: _Sizes, node: Node) -> list[Shape]:
    data, places = state.shape(node, 0), state.shape(node, 1)
    axis = _axis(node, _integer(node, "axis", 0), len(data))
    values, wanted = state.maybe(node, 0), state.maybe(node, 1)
    if values is not None and wanted is not None and len(data) == 1:
        if any(not -len(values) <= place < len(values) for place in wanted):
            raise BundleError("Gather reads outside of a tensor")
        state.known[node.outputs[0]] = tuple(values[place] for place in wanted)
    return [(*data[:axis], *places, *data[axis + 1 :])]


def _slice(state: _Sizes, node: Node) -> list[Shape]:
    data = state.shape(node, 0)
    starts, ends = state.maybe(node, 1), state.maybe(node, 2)
    if starts is None or ends is None:
        return [data]
    axes = state.values(node, 3) if len(node.inputs) > 3 and node.inputs[3] else tuple(range(len(starts)))
    steps = state.values(node, 4) if len(node.inputs) > 4 else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise BundleError("Slice has starts, ends, axes and steps that do not fit each other")
    result = list(data)
    known = state.maybe(node, 0)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = _axis(node, axis, len(data))
        part = slice(start, end if end > -(2**31) else None, step)
        result[at] = len(range(*part.indices(data[at])))
        if known is not None and len(data) == 1:
            known = known[part]
    if known is not None and len(data) == 1:
        state.known[node.outputs[0]] = known
    return [tuple(result)]


def _range(state: _Sizes, node: Node) -> list[Shape]:
    ((start,), (limit,), (step,)) = (state.values(node, place) or (0,) for place in range(3))
    if step == 0:
        raise BundleError("Range has a step of 0")
    count = max(0, -(-(limit - start) // step))
    if count <= _MAX_KNOWN:
        state.known[node.outputs[0]] = tuple(range(start, limit, step))
    return [(count,)]


def _reshape(state: _Sizes, node: Node) -> list[Shape]:
    data, wanted = state.shape(node, 0), list(state.values(node, 1))
    if not _integer(node, "allowzero", 0):
        wanted = [data[place] if not size and place < len(data) else size for place, size in enumerate(wanted)]
    if any(size < -1 for size in wanted) or wanted.count(-1) > 1:
        raise BundleError(f"Reshape asks for the shape {wanted[:_MAX_RANK]}")
    elements, rest = math.prod(data), math.prod(size for size in wanted if size != -1)
    result = tuple((elements // rest if rest else 0) if size == -1 else size for size in wanted)
    known = state.maybe(node, 0)
    if known is not None:
        state.known[node.outputs[0]] = known
    return [result]


def _expand(state: _Sizes, node: Node) -> list[Shape]:
    wanted = state.values(node, 1)
    if any(size < 0 for size in wanted):
        raise BundleError(f"Expand asks for the shape {list(wanted)[:_MAX_RANK]}")
    return [_broadcast(state.shape(node, 0), wanted)]


def _filled(state: _Sizes, node: Node) -> list[Shape]:
    wanted = state.values(node, 0)
    if any(size < 0 for size in wanted):
        raise BundleError(f"{node.op} asks for the shape {list(wanted)[:_MAX_RANK]}")
    return [wanted]


def _tile(state: _Sizes, node: Node) -> list[Shape]:
    data, times = state.shape(node, 0), state.values(node, 1)
    if len(data) != len(times) or any(count < 0 for count in times):
        raise BundleError("Tile has repeats that do not fit its tensor")
    return [tuple(size * count for size, count in zip(data, times, strict=True))]


def _transpose(state: _Sizes, node: Node) -> list[Shape]:
    data = state.shape(node, 0)
    order = node.attributes.get("perm", tuple(reversed(range(len(data)))))
    if not isinstance(order, tuple) or sorted(order) != list(range(len(data))):
        raise BundleError(f"Transpose has the order {order} for a tensor of rank {len(data)}")
    return [tuple(data[place] for place in order)]


def _unsqueeze(state: _Sizes, node: Node) -> list[Shape]:
    data, axes = state.shape(node, 0), state.values(node, 1)
    rank = len(data) + len(axes)
    places = {_axis(node, axis, rank) for axis in axes}
    if len(places) != len(axes) or rank > _MAX_RANK:
        raise BundleError(f"Unsqueeze has the axes {list(axes)[:_MAX_RANK]}")
    rest = iter(data)
    _pass_values(state, node)
    return [tuple(1 if place in places else next(rest) for place in range(rank))]


def _squeeze(state: _Sizes, node: Node) -> list[Shape]:
    data = state.shape(node, 0)
    axes = state.values(node, 1) if len(node.inputs) > 1 else [at for at, size in enumerate(data) if size == 1]
    places = {_axis(node, axis, len(data)) for axis in axes}
    _pass_values(state, node)
    return [tuple(size for place, size in enumerate(data) if place not in places)]


def _pass_values(state: _Sizes, node: Node) -> None:
    known = state.maybe(node, 0)
    if known is not None:
        state.known[node.outputs[0]] = known


def _split(state: _Sizes, node: Node) -> list[Shape]:
    data = state.shape(node, 0)
    axis = _axis(node, _integer(node, "axis", 0), len(data))
    count = len(node.outputs)
    sizes = state.values(node, 1) if len(node.inputs) > 1 and node.inputs[1] else (-(-data[axis] // count),) * count
    if len(sizes) != count or any(size < 0 for size in sizes) or sum(sizes) > data[axis] + count:
        raise BundleError(f"Split asks for the sizes {list(sizes)[:_MAX_RANK]}")
    return [(*data[:axis], size, *data[axis + 1 :]) for size in sizes]


def _matmul(state: _Sizes, node: Node) -> list[Shape]:
    left, right = state.shape(node, 0), state.shape(node, 1)
    if len(left) < 2 or len(right) < 2:
        raise BundleError("MatMul multiplies vectors")
    result = (*_broadcast(left[:-2] or (1,), right[:-2] or (1,)), left[-2], right[-1])
    state.products += math.prod(result) * max(left[-1], right[-2])
    return [result[len(result) - max(len(left), len(right)) :]]


def _gemm(state: _Sizes, node: Node) -> list[Shape]:
    left, right = state.shape(node, 0), state.shape(node, 1)
    if len(left) != 2 or len(right) != 2:
        raise BundleError("Gemm multiplies tensors that are no matrices")
    rows, inner = reversed(left) if _integer(node, "transA", 0) else left
    columns = right[0] if _integer(node, "transB", 0) else right[1]
    state.products += rows * columns * inner
    return [(rows, columns)]


def _attention(state: _Sizes, node: Node) -> list[Shape]:
    queries, keys, values = (state.shape(node, place) for place in range(3))
    if not len(queries) == len(keys) == len(values) or len(queries) not in (3, 4):
        raise BundleError("Attention has queries, keys and values of other ranks than 3 or 4")
    heads = _integer(node, "q_num_heads", 0) if len(queries) == 3 else queries[1]
    of_keys = _integer(node, "kv_num_heads", 0) if len(queries) == 3 else keys[1]
    if not (0 < of_keys <= heads <= 1024 and heads % of_keys == 0):
        raise BundleError(f"Attention has {heads} heads of queries and {of_keys} of keys")
    scores = queries[0] * heads * queries[-2] * keys[-2]
    if scores > _MAX_ELEMENTS:
        raise BundleError("Attention makes scores that are too large")
    state.products += 2 * scores * queries[-1]
    if len(queries) == 4:
        return [(*queries[:3], values[3])]
    return [(*queries[:2], values[2] // of_keys * heads)]


def _conv(state: _Sizes, node: Node) -> list[Shape]:
    data, kernel = state.shape(node, 0), state.shape(node, 1)
    if len(data) != 3 or len(kernel) != 3:
        raise BundleError("Conv has tensors of other ranks than 3")
    state.products += data[0] * data[2] * math.prod(kernel)
    pads = node.attributes.get("pads", ())
    if not isinstance(pads, tuple) or any(not 0 <= pad <= kernel[2] for pad in pads):
        raise BundleError(f"Conv has the padding {pads} for a kernel of {kernel[2]}")
    return [(data[0], kernel[0], data[2] + sum(pads))]


def _norm(state: _Sizes, node: Node) -> list[Shape]:
    data = state.shape(node, 0)
    return [data, data, data][: max(1, len(node.outputs))]


def _reduce(state: _Sizes, node: Node) -> list[Shape]:
    data = state.shape(node, 0)
    stated = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        axes: Sequence[int] = state.values(node, 1)
    elif isinstance(stated, tuple):
        axes = stated
    else:
        axes = range(len(data))
    places = {_axis(node, axis, len(data)) for axis in axes}
    keep = _integer(node, "keepdims", 1)
    return [tuple(1 if at in places else size for at, size in enumerate(data) if keep or at not in places)]


def _arg(state: _Sizes, node: Node) -> list[Shape]:
    data = state.shape(node, 0)
    place = _axis(node, _integer(node, "axis", 0), len(data))
    keep = _integer(node, "keepdims", 1)
    return [(*data[:place], *((1,) if keep else ()), *data[place + 1 :])]


def _gather_elements(state: _Sizes, node: Node) -> list[Shape]:
    return [state.shape(node, 1)]


def _gather_nd(state: _Sizes, node: Node) -> list[Shape]:
    data, places = state.shape(node, 0), state.shape(node, 1)
    batch = _integer(node, "batch_dims", 0)
    if not places or not 0 <= batch < min(len(places), len(data)) or batch + places[-1] > len(data):
        raise BundleError("GatherND has indices that do not fit its tensor")
    return [(*places[:-1], *data[batch + places[-1] :])]


_UNARY = (
    "Abs Cast Ceil Clip Cos CumSum DequantizeLinear Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN "
    "LeakyRelu Log LogSoftmax Neg Not QuantizeLinear Reciprocal Relu RotaryEmbedding Round Sigmoid Sign Sin Softmax "
    "Softplus Softsign Sqrt Swish Tanh Trilu"
)
_WISE = "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow Sub Sum Where Xor"
_REDUCE = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"

SIZED_OPERATORS: Mapping[str, Callable[[_Sizes, Node], Sequence[Shape]]] = {
    **dict.fromkeys(_UNARY.split(), _same),
    **dict.fromkeys(_WISE.split(), _wise),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    "ArgMax": _arg,
    "Attention": _attention,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "LayerNormalization": _norm,
    "MatMul": _matmul,
    "RMSNormalization": _norm,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""How the shapes of an operator's outputs follow from its inputs."""


def small_integers(tensor: Tensor, most: int = _MAX_KNOWN) -> bool:
    """Whether shapes can be made from the content of an initializer."""
    return tensor.location is None and math.prod(tensor.dims) <= most
