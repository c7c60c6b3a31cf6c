"""Reading an ONNX graph into plain values. Everything that the exporter does not write is refused.

Field numbers are those of ``onnx.proto3``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ese_deploy.bundle.protobuf import LENGTH, VARINT, Field, read_float, read_integers, read_message, read_text
from ese_deploy.errors import BundleError

__all__ = ["AttributeValue", "Graph", "Node", "Tensor", "ValueInfo", "read_graph_file"]

AttributeValue = int | float | str | tuple[int, ...]

_MAX_NODES = 20_000
_MAX_VALUES = 20_000
_MAX_RANK = 8
_INT, _FLOAT, _STRING, _INTS = 2, 1, 3, 7
_EXTERNAL = 1


@dataclass(frozen=True)
class Node:
    """An operator of the graph, with its inputs, outputs and attributes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True)
class Tensor:
    """An initializer: its bytes are in the graph, or in another file."""

    name: str
    dtype: int
    dims: tuple[int, ...]
    raw: bytes = b""
    location: str | None = None
    offset: int = 0
    length: int = 0


@dataclass(frozen=True)
class ValueInfo:
    """An input or output: its type, and a number or a symbol for each axis."""

    name: str
    dtype: int
    axes: tuple[int | str | None, ...]


@dataclass
class Graph:
    """An ONNX model that has nothing but one graph."""

    ir_version: int = 0
    opset: int = 0
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[ValueInfo] = field(default_factory=list)
    outputs: list[ValueInfo] = field(default_factory=list)


def read_graph_file(data: bytes) -> Graph:
    """Read an ONNX model.

    Raises:
        BundleError: it is malformed, or has a part that the exporter does not write, such as a function.
    """
    graph = Graph()
    body: list[Field] = []
    opsets: list[int] = []

    def version(item: Field) -> None:
        graph.ir_version = _integer(item)

    handlers = {
        1: version,
        2: _skip,
        3: _skip,
        7: body.append,
        8: lambda item: opsets.append(_opset(data, item)),
    }
    _read("the model", data, 0, len(data), handlers, once={1, 7})
    if len(body) != 1 or len(opsets) != 1:
        raise BundleError(f"the model has {len(body)} graphs and {len(opsets)} opsets, not one of each")
    graph.opset = opsets[0]
    _read_graph(data, body[0], graph)
    return graph


def _read_graph(data: bytes, item: Field, graph: Graph) -> None:
    def node(part: Field) -> None:
        graph.nodes.append(_node(data, part))
        if len(graph.nodes) > _MAX_NODES:
            raise BundleError(f"the graph has more than {_MAX_NODES} nodes")

    def tensor(part: Field) -> None:
        found = _tensor(data, part)
        if found.name in graph.tensors:
            raise BundleError(f"the initializer {found.name!r} is there twice")
        graph.tensors[found.name] = found
        if len(graph.tensors) > _MAX_VALUES:
            raise BundleError(f"the graph has more than {_MAX_VALUES} initializers")

    handlers = {
        1: node,
        2: _skip,
        5: tensor,
        11: lambda part: graph.inputs.append(_value(data, part)),
        12: lambda part: graph.outputs.append(_value(data, part)),
        13: _skip,  # shapes of intermediate values, which engines infer themselves
    }
    _read("the graph", data, *_content(item), handlers, once=set())


def _node(data: bytes, item: Field) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    ops: list[str] = []
    attributes: dict[str, AttributeValue] = {}

    def attribute(part: Field) -> None:
        name, value = _attribute(data, part)
        if name in attributes:
            raise BundleError(f"a node has the attribute {name!r} twice")
        attributes[name] = value

    def domain(part: Field) -> None:
        if read_text(data, part):
            raise BundleError(f"a node is of the domain {read_text(data, part)!r}, and only standard ones are allowed")

    handlers = {
        1: lambda part: inputs.append(read_text(data, part)),
        2: lambda part: outputs.append(read_text(data, part)),
        3: _skip,
        4: lambda part: ops.append(read_text(data, part)),
        5: attribute,
        7: domain,
    }
    _read("a node", data, *_content(item), handlers, once={4})
    if len(ops) != 1:
        raise BundleError("a node has no operator")
    return Node(ops[0], tuple(inputs), tuple(outputs), attributes)


def _attribute(data: bytes, item: Field) -> tuple[str, AttributeValue]:
    names: list[str] = []
    kinds: list[int] = []
    integers: list[int] = []
    numbers: list[float] = []
    texts: list[str] = []
    lists: list[int] = []
    handlers = {
        1: lambda part: names.append(read_text(data, part)),
        2: lambda part: numbers.append(read_float(data, part)),
        3: lambda part: integers.extend(read_integers(data, part)),
        4: lambda part: texts.append(read_text(data, part)),
        8: lambda part: lists.extend(read_integers(data, part)),
        20: lambda part: kinds.append(_integer(part)),
    }
    _read("an attribute", data, *_content(item), handlers, once={1, 2, 3, 4, 20})
    if len(names) != 1 or len(kinds) != 1:
        raise BundleError("an attribute has no name or no type")
    kind, name = kinds[0], names[0]
    present: dict[int, Sequence[AttributeValue]] = {_INT: integers, _FLOAT: numbers, _STRING: texts, _INTS: lists}
    if kind not in present or any(values for other, values in present.items() if other != kind):
        raise BundleError(f"the attribute {name!r} has a value of another type than it says, or of an unsupported one")
    if kind == _INTS:
        return name, tuple(lists)
    # Writers leave out what is zero.
    defaults: dict[int, AttributeValue] = {_INT: 0, _FLOAT: 0.0, _STRING: ""}
    return name, next(iter(present[kind]), defaults[kind])


def _tensor(data: bytes, item: Field) -> Tensor:
    dims: list[int] = []
    names: list[str] = []
    dtypes: list[int] = []
    raw: list[bytes] = []
    places: list[int] = []
    external: dict[str, str] = {}

    def entry(part: Field) -> None:
        key, value = _pair(data, part)
        if key in external:
            raise BundleError(f"an initializer has the key {key!r} of its external data twice")
        external[key] = value

    handlers = {
        1: lambda part: dims.extend(read_integers(data, part)),
        2: lambda part: dtypes.append(_integer(part)),
        8: lambda part: names.append(read_text(data, part)),
        9: lambda part: raw.append(data[slice(*_content(part))]),
        13: entry,
        14: lambda part: places.append(_integer(part)),
    }
    _read("an initializer", data, *_content(item), handlers, once={2, 8, 9, 14})
    if len(names) != 1 or not names[0] or len(dtypes) != 1:
        raise BundleError("an initializer has no name or no type")
    name = names[0]
    if len(dims) > _MAX_RANK or any(not 0 <= size < 2**40 for size in dims):
        raise BundleError(f"the initializer {name!r} has the shape {dims[:_MAX_RANK]}")
    outside = places == [_EXTERNAL]
    if outside != bool(external) or (outside and raw):
        raise BundleError(f"the initializer {name!r} is both inside and outside of the graph")
    if not outside:
        return Tensor(name, dtypes[0], tuple(dims), raw[0] if raw else b"")
    if set(external) != {"location", "offset", "length"}:
        raise BundleError(f"the external data of {name!r} has the keys {sorted(external)}")
    offset, length = (_digits(external[key], name) for key in ("offset", "length"))
    return Tensor(name, dtypes[0], tuple(dims), b"", external["location"], offset, length)


def _value(data: bytes, item: Field) -> ValueInfo:
    names: list[str] = []
    types: list[Field] = []
    handlers: Mapping[int, Callable[[Field], object]] = {
        1: lambda part: names.append(read_text(data, part)),
        2: types.append,
    }
    _read("a value", data, *_content(item), handlers, once={1, 2})
    tensors = _nested(data, types, "a type")
    dtypes: list[int] = []
    shapes: list[Field] = []
    handlers = {1: lambda part: dtypes.append(_integer(part)), 2: shapes.append}
    for part in tensors:
        _read("a tensor type", data, *_content(part), handlers, once={1, 2})
    if len(names) != 1 or len(dtypes) != 1 or len(shapes) != 1:
        raise BundleError("an input or output has no name, type or shape")
    return ValueInfo(names[0], dtypes[0], tuple(_axis(data, axis) for axis in _nested(data, shapes, "a shape")))


def _axis(data: bytes, item: Field) -> int | str | None:
    found: list[int | str] = []
    handlers: Mapping[int, Callable[[Field], object]] = {
        1: lambda part: found.extend(read_integers(data, part)),
        2: lambda part: found.append(read_text(data, part)),
    }
    _read("an axis", data, *_content(item), handlers, once={1, 2})
    return found[0] if found else None


def _nested(data: bytes, items: list[Field], what: str) -> list[Field]:
    """The messages in field 1 of each item, which has no other field."""
    found: list[Field] = []
    for item in items:
        _read(what, data, *_content(item), {1: found.append}, once=set())
    return found


def _opset(data: bytes, item: Field) -> int:
    versions: list[int] = []
    domains: list[str] = []
    handlers: Mapping[int, Callable[[Field], object]] = {
        1: lambda part: domains.append(read_text(data, part)),
        2: lambda part: versions.extend(read_integers(data, part)),
    }
    _read("an opset", data, *_content(item), handlers, once={1, 2})
    if any(domains) or len(versions) != 1:
        raise BundleError(f"the model imports operators of the domain {''.join(domains)!r}")
    return versions[0]


def _pair(data: bytes, item: Field) -> tuple[str, str]:
    found: dict[int, str] = {}
    handlers: Mapping[int, Callable[[Field], object]] = {
        1: lambda part: found.update({1: read_text(data, part)}),
        2: lambda part: found.update({2: read_text(data, part)}),
    }
    _read("a key", data, *_content(item), handlers, once={1, 2})
    return found.get(1, ""), found.get(2, "")


def _read(
    what: str, data: bytes, start: int, end: int, handlers: Mapping[int, Callable[[Field], object]], once: set[int]
) -> None:
    """Give each field of a message to the handler of its number."""
    seen: set[int] = set()
    for item in read_message(data, start, end):
        number = item[0]
        if number not in handlers:
            raise BundleError(f"{what} has a part that no export writes (field {number})")
        if number in once:
            if number in seen:
                raise BundleError(f"{what} has field {number} twice")
            seen.add(number)
        handlers[number](item)


def _content(item: Field) -> tuple[int, int]:
    if item[1] != LENGTH:
        raise BundleError(f"field {item[0]} has the wrong wire type")
    return item[2], item[3]


def _integer(item: Field) -> int:
    if item[1] != VARINT:
        raise BundleError(f"field {item[0]} has the wrong wire type")
    return item[2]


def _skip(item: Field) -> None:
    _content(item)


def _digits(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise BundleError(f"the external data of {name!r} is at {text!r}")
    return int(text)
