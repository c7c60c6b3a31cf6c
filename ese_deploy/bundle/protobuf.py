"""Reading the wire format of protobuf, without the library and without copying."""

import struct

from ese_deploy.errors import BundleError

__all__ = ["FIXED32", "LENGTH", "VARINT", "Field", "read_float", "read_integers", "read_message", "read_text"]

VARINT, LENGTH, FIXED32 = 0, 2, 5
_MORE = 128
_LONGEST_VARINT = 10
_LONGEST_NAME = 512

Field = tuple[int, int, int, int]
"""Number, wire type, and either the value of a varint or the start of the content; then the end of the content."""


def read_message(data: bytes, start: int, end: int) -> list[Field]:
    """The fields of a message.

    Args:
        data: the whole file.
        start: where the message begins in it.
        end: where it ends.

    Raises:
        BundleError: the message is cut off or malformed.
    """
    found: list[Field] = []
    at = start
    while at < end:
        # Almost every key and length is a single byte.
        key = data[at]
        if key < _MORE:
            at += 1
        else:
            key, at = _varint(data, at, end)
        wire = key & 7
        if wire == FIXED32:
            size = 4
        elif wire in (VARINT, LENGTH):
            if at < end and data[at] < _MORE:
                size = data[at]
                at += 1
            else:
                size, at = _varint(data, at, end)
            if wire == VARINT:
                found.append((key >> 3, VARINT, size, at))
                continue
        else:
            raise BundleError(f"field {key >> 3} has the wire type {wire}")
        if size > end - at:
            raise BundleError("a field is longer than the message")
        found.append((key >> 3, wire, at, at + size))
        at += size
    return found


def read_integers(data: bytes, field: Field) -> list[int]:
    """The int64 values of a field, packed or single."""
    _, wire, start, end = field
    if wire == VARINT:
        return [_signed(start)]
    if wire != LENGTH:
        raise BundleError("a list of integers has the wrong wire type")
    found, at = [], start
    while at < end:
        value, at = _varint(data, at, end)
        found.append(_signed(value))
    return found


def read_float(data: bytes, field: Field) -> float:
    """The float32 of a field."""
    if field[1] != FIXED32:
        raise BundleError("a number has the wrong wire type")
    (value,) = struct.unpack_from("<f", data, field[2])
    return float(value)


def read_text(data: bytes, field: Field) -> str:
    """The text of a field, at most 512 bytes."""
    _, wire, start, end = field
    if wire != LENGTH or end - start > _LONGEST_NAME:
        raise BundleError(f"a name is not text of at most {_LONGEST_NAME} bytes")
    try:
        return data[start:end].decode()
    except UnicodeDecodeError:
        raise BundleError("a name is not UTF-8") from None


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, min(end, at + _LONGEST_VARINT)):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < _MORE:
            return value & (2**64 - 1), place + 1
        shift += 7
    raise BundleError("a number is cut off or too long")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
