"""Writing vectors to a file, a piece at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.files import write_atomic
from ese_deploy.textfile import Row

__all__ = ["open_vectors"]

Write = Callable[[Sequence[Row], NDArray[np.float32]], None]


def open_vectors(path: Path) -> Callable[[Path, int, int], AbstractContextManager[Write]]:
    """The writer for a kind of file: called with path, number of vectors and dim, it gives the function that writes.

    Raises:
        InputError: the kind is unknown.
    """
    writers = {".npy": _write_npy, ".jsonl": _write_jsonl}
    if path.suffix not in writers:
        raise InputError(f"{path} is not a .npy or .jsonl file; those are what embed writes")
    return writers[path.suffix]


@contextmanager
def _write_npy(path: Path, count: int, dim: int) -> Iterator[Write]:
    with write_atomic(path) as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype("<f4")),
            "fortran_order": False,
            "shape": (count, dim),
        }
        np.lib.format.write_array_header_1_0(file, header)

        def write(rows: Sequence[Row], vectors: NDArray[np.float32]) -> None:
            file.write(vectors.astype("<f4").tobytes())

        yield write


@contextmanager
def _write_jsonl(path: Path, count: int, dim: int) -> Iterator[Write]:
    with write_atomic(path) as file:

        def write(rows: Sequence[Row], vectors: NDArray[np.float32]) -> None:
            for row, vector in zip(rows, vectors, strict=True):
                file.write(msgspec.json.encode({**row.fields, "embedding": vector.tolist()}) + b"\n")

        yield write
