"""Graphs of int8 on processors whose products take one factor without sign."""

import platform
from pathlib import Path

__all__ = ["ZERO_POINT", "overflows", "unsigned", "wants_unsigned"]

ZERO_POINT = "activation_zero_point"
"""The initializer that is the zero point of every activation of a graph of int8."""

# As protobuf writes that tensor: its type (3 is int8, 2 is uint8), its name, its one byte.
_NAMED = bytes([0x42, len(ZERO_POINT)]) + ZERO_POINT.encode()
_SIGNED = b"\x10\x03" + _NAMED + b"\x4a\x01\x00"
_UNSIGNED = b"\x10\x02" + _NAMED + b"\x4a\x01\x80"

_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}


def unsigned(graph: bytes) -> bytes:
    """Let the activations of a graph be uint8 about 128 where they were int8 about 0, which is the same number.

    Args:
        graph: the ONNX model; one of another dtype is returned as it is.
    """
    return graph.replace(_SIGNED, _UNSIGNED)


def wants_unsigned() -> bool:
    """Whether this processor multiplies whole numbers of 8 bits fast only where one factor has no sign."""
    return platform.machine().lower() in ("x86_64", "amd64")


def overflows(root: Path = Path("/")) -> bool:
    """Whether products of 8 bits are summed in 16 bits here, where two of them do not fit: x86 without VNNI.

    Args:
        root: where ``proc`` is found; where it is not, nothing is known and the answer is no.
    """
    if not wants_unsigned():
        return False
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
    return bool(flags) and not flags & _VNNI
