"""Index files of usearch, written when everything is loaded."""

from pathlib import Path

import numpy as np
from usearch.index import Index

from ese_deploy.bulk.sinks.base import Batch
from ese_deploy.system.files import write_atomic

__all__ = ["UsearchSink", "open_address"]


class UsearchSink:
    """A graph index by cosine. Keys are the ids; for string ids, positions in the output."""

    def __init__(self, path: Path) -> None:
        self.file = path
        self._index = Index(ndim=1)
        self._strings = False

    def prepare(self, dim: int, strings: bool) -> None:
        """Begin an empty index."""
        self._index = Index(ndim=dim, metric="cos", dtype="f32")
        self._strings = strings

    def write(self, batch: Batch) -> None:
        """Add vectors."""
        positions = np.arange(batch.first, batch.first + len(batch.ids))
        keys = positions if self._strings else np.asarray(batch.ids)
        self._index.add(keys.astype(np.uint64), batch.vectors)

    def count(self) -> int:
        """How many vectors this run has added: a file is always built anew."""
        return len(self._index)

    def close(self) -> None:
        """Write the file."""
        with write_atomic(self.file) as file:
            file.write(bytes(self._index.save() or b""))


def open_address(address: str) -> UsearchSink:
    """Open ``usearch:FILE``."""
    return UsearchSink(Path(address.partition(":")[2]))
