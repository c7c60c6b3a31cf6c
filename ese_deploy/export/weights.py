"""One weights file for all targets of a dtype, in which equal tensors are stored once."""

import hashlib
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import onnx
import onnx_ir as ir

from ese_deploy.bundle.manifest import WeightsEntry
from ese_deploy.errors import BundleError

__all__ = ["INLINE_BYTES", "WeightsFile", "external_tensors"]

# Smaller tensors stay in the graph: shapes and scalars, which engines fold.
INLINE_BYTES = 256

# Large tensors are aligned to pages, so that engines can map them; small ones to cache lines.
_LARGE = 1 << 16
_PAGE, _LINE = 4096, 64

_COPY = 1 << 24


class WeightsFile:
    """Writes a weights file; use it as a context manager.

    Args:
        path: the file to write.
        dtype: the dtype whose targets share it.
    """

    def __init__(self, path: Path, dtype: str) -> None:
        self.path = path
        self.dtype = dtype
        self._placed: dict[bytes, tuple[int, int]] = {}
        # By id, so that a tensor is not hashed again for each target. The tensor is kept, or its id could be reused.
        self._seen: dict[int, tuple[ir.TensorProtocol, tuple[int, int]]] = {}
        self._digest = hashlib.sha256()
        self._end = 0
        self._file: IO[bytes] = path.open("xb")

    def __enter__(self) -> "WeightsFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def extend(self, existing: Path, tensors: Iterable[tuple[int, int]]) -> None:
        """Begin with the content of another weights file, so that its graphs stay valid.

        Args:
            existing: the other file.
            tensors: (offset, bytes) of each tensor in it.
        """
        with existing.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for start in range(0, len(content), _COPY):
                self._append(content[start : start + _COPY])
            for offset, length in tensors:
                self._placed.setdefault(_key(content[offset : offset + length]), (offset, length))

    def place(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        """Write a tensor unless the file contains the same bytes already, and return a reference to it."""
        if id(tensor) not in self._seen:
            self._seen[id(tensor)] = (tensor, self._place_bytes(tensor.tobytes()))
        offset, length = self._seen[id(tensor)][1]
        return ir.ExternalTensor(
            location=self.path.name,
            offset=offset,
            length=length,
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir=str(self.path.parent),
        )

    def entry(self) -> WeightsEntry:
        """The entry of the file in the manifest."""
        self._file.flush()
        return WeightsEntry(file=self.path.name, bytes=self._end, sha256=self._digest.hexdigest(), dtype=self.dtype)

    def _place_bytes(self, content: bytes) -> tuple[int, int]:
        key = _key(content)
        if key not in self._placed:
            alignment = _PAGE if len(content) >= _LARGE else _LINE
            self._append(bytes(-self._end % alignment))
            self._placed[key] = (self._end, len(content))
            self._append(content)
        return self._placed[key]

    def _append(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._end += len(content)


def external_tensors(graph: bytes, where: str) -> list[tuple[int, int]]:
    """The (offset, bytes) of every tensor of a graph that is in the weights file.

    Raises:
        BundleError: the bytes are not an ONNX model.
    """
    try:
        model = ir.from_proto(onnx.load_from_string(graph))
    except Exception as error:
        raise BundleError(f"{where} is not an ONNX graph: {error}") from error
    found = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            found.append((tensor.offset or 0, tensor.length or tensor.nbytes))
    return found


def _key(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
