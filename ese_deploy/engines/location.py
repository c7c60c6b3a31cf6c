"""Where the graph of a target looks for its weights."""

from collections.abc import Iterator

__all__ = ["relocate"]

# Fields of ONNX's protobuf messages: ModelProto.graph, GraphProto.initializer, TensorProto.external_data.
_TO_EXTERNAL_DATA = (7, 5, 13)
# StringStringEntryProto.key and .value.
_KEY, _VALUE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def relocate(graph: bytes, old: str, new: str) -> bytes:
    """Change the name of the weights file in an ONNX graph; tensors and nodes stay as they are.

    ONNX Runtime and OpenVINO follow no link out of a folder, so a graph must name the file behind the link.

    Args:
        graph: the ONNX model.
        old: the name. Tensors in files of other names stay as they are.
        new: the new name.

    Raises:
        ValueError: the bytes are not an ONNX model.
    """
    pair = _encode(_KEY, b"location") + _encode(_VALUE, old.encode())
    return _rewrite(graph, _TO_EXTERNAL_DATA, pair, _encode(_KEY, b"location") + _encode(_VALUE, new.encode()))


def _rewrite(message: bytes, path: tuple[int, ...], old: bytes, new: bytes) -> bytes:
    """Replace the messages at the end of ``path`` that are ``old``."""
    if not path:
        return new if message == old else message
    parts = []
    for number, field, content in _fields(message):
        if number == path[0] and content is not None:
            field = _encode(number, _rewrite(content, path[1:], old, new))
        parts.append(field)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """The fields of a message: number, all bytes of the field, and the content of fields that have a length."""
    place = 0
    while place < len(message):
        start = place
        tag, place = _read_varint(message, place)
        number, kind = tag >> 3, tag & 7
        content = None
        if kind == _VARINT:
            _, place = _read_varint(message, place)
        elif kind == _BYTES:
            length, place = _read_varint(message, place)
            content = message[place : place + length]
            place += length
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"field {number} has the unknown wire type {kind}")
        if place > len(message):
            raise ValueError(f"field {number} is longer than its message")
        yield number, message[start:place], content


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            break
    raise ValueError("a number is cut off or too long")


def _encode(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
