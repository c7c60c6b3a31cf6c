"""Where the graph of a target looks for its weights."""

from ese_deploy.bundle.protobuf import LENGTH, read_message

__all__ = ["relocate"]

# Fields of ONNX's protobuf messages: ModelProto.graph, GraphProto.initializer, TensorProto.external_data.
_TO_EXTERNAL_DATA = (7, 5, 13)
# StringStringEntryProto.key and .value.
_KEY, _VALUE = 1, 2


def relocate(graph: bytes, old: str, new: str) -> bytes:
    """Change the name of the weights file in an ONNX graph; tensors and nodes stay as they are.

    ONNX Runtime and OpenVINO follow no link out of a folder, so a graph must name the file behind the link.

    Args:
        graph: the ONNX model.
        old: the name. Tensors in files of other names stay as they are.
        new: the new name.

    Raises:
        BundleError: the bytes are not an ONNX model.
    """
    before, after = (_encode(_KEY, b"location") + _encode(_VALUE, name.encode()) for name in (old, new))
    return _replace(graph, 0, len(graph), _TO_EXTERNAL_DATA, before, after)


def _replace(data: bytes, start: int, end: int, path: tuple[int, ...], before: bytes, after: bytes) -> bytes:
    """The message from ``start`` to ``end``, with the messages at the end of ``path`` that are ``before`` replaced."""
    if not path:
        message = data[start:end]
        return after if message == before else message
    parts, at = [], start
    for number, wire, first, last in read_message(data, start, end):
        if wire == LENGTH and number == path[0]:
            parts.append(_encode(number, _replace(data, first, last, path[1:], before, after)))
        else:
            parts.append(data[at:last])
        at = last
    return b"".join(parts)


def _encode(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | LENGTH) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
