"""Index files of FAISS, written when everything is loaded."""

from pathlib import Path

import faiss
import numpy as np

from ese_deploy.bulk.sinks.base import Batch
from ese_deploy.system.files import write_atomic

__all__ = ["FaissSink", "open_address"]


class FaissSink:
    """An index of inner products over all vectors, exact. Keys are the ids; for string ids, positions in the output."""

    def __init__(self, path: Path) -> None:
        self.file = path
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(1))
        self._strings = False

    def prepare(self, dim: int, strings: bool) -> None:
        """Begin an empty index."""
        self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
        self._strings = strings

    def write(self, batch: Batch) -> None:
        """Add vectors."""
        positions = np.arange(batch.first, batch.first + len(batch.ids))
        keys = positions if self._strings else np.asarray(batch.ids)
        self._index.add_with_ids(np.ascontiguousarray(batch.vectors), keys.astype(np.int64))

    def count(self) -> int:
        """How many vectors this run has added: a file is always built anew."""
        return int(self._index.ntotal)

    def close(self) -> None:
        """Write the file."""
        with write_atomic(self.file) as file:
            file.write(faiss.serialize_index(self._index).tobytes())


def open_address(address: str) -> FaissSink:
    """Open ``faiss:FILE``."""
    return FaissSink(Path(address.partition(":")[2]))
