"""Files of vectors, written one chunk at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.cli.console import check_file
from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.texts.reader import TextRow

__all__ = ["open_vectors"]

Embeddings = NDArray[Any]
Write = Callable[[Sequence[TextRow], Embeddings], None]


def open_vectors(path: Path) -> Callable[[Path, int, Embeddings], AbstractContextManager[Write]]:
    """The writer for the suffix of a file.

    Returns:
        A context manager that takes the path, the number of vectors and an empty array [0, columns] in their dtype. It
        yields the function that writes a chunk.

    Raises:
        InputError: the suffix is unknown, or the file cannot be written.
    """
    writers = {".npy": _write_npy, ".jsonl": _write_jsonl}
    if path.suffix not in writers:
        raise InputError(f"Cannot write {path}. Choose a name that ends in .npy or .jsonl.")
    check_file(path)
    return writers[path.suffix]


@contextmanager
def _write_npy(path: Path, count: int, like: Embeddings) -> Iterator[Write]:
    with write_atomic(path) as file:
        dtype = like.dtype.newbyteorder("<")
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (count, *like.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)

        def write(rows: Sequence[TextRow], vectors: Embeddings) -> None:
            file.write(vectors.astype(dtype).tobytes())

        yield write


@contextmanager
def _write_jsonl(path: Path, count: int, like: Embeddings) -> Iterator[Write]:
    with write_atomic(path) as file:

        def write(rows: Sequence[TextRow], vectors: Embeddings) -> None:
            for row, vector in zip(rows, vectors, strict=True):
                file.write(msgspec.json.encode({**row.fields, "embedding": vector.tolist()}) + b"\n")

        yield write
