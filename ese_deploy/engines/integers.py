"""int8 graphs on processors that multiply unsigned by signed integers."""

import platform
from pathlib import Path

__all__ = ["ZERO_POINT", "overflows", "unsigned", "wants_unsigned"]

ZERO_POINT = "activation_zero_point"
"""The initializer that is the zero point of every activation of an int8 graph."""

# That tensor in protobuf: its type (3 is int8, 2 is uint8), its name, its one byte.
_NAMED = bytes([0x42, len(ZERO_POINT)]) + ZERO_POINT.encode()
_SIGNED = b"\x10\x03" + _NAMED + b"\x4a\x01\x00"
_UNSIGNED = b"\x10\x02" + _NAMED + b"\x4a\x01\x80"

_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}


def unsigned(graph: bytes) -> bytes:
    """Change the activations of an int8 graph from int8 around 0 to uint8 around 128. The values stay the same.

    Args:
        graph: the ONNX model. A model of another dtype is returned unchanged.
    """
    return graph.replace(_SIGNED, _UNSIGNED)


def wants_unsigned() -> bool:
    """Whether 8-bit products are fast on this processor only if one factor is unsigned."""
    return platform.machine().lower() in ("x86_64", "amd64")


def overflows(root: Path = Path("/")) -> bool:
    """Whether sums of 8-bit products can overflow here: x86 without VNNI adds two of them in 16 bits.

    Args:
        root: the folder that contains ``proc``. Without it the answer is no.
    """
    if not wants_unsigned():
        return False
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
    return bool(flags) and not flags & _VNNI
