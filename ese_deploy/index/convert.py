"""Rotating the vectors of an existing index onto the principal components of a bundle, a chunk at a time."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.reader import Bundle, open_bundle
from ese_deploy.bundle.spaces import full_depth_space, rotation
from ese_deploy.errors import InputError
from ese_deploy.index.files import Source, open_npy, open_parquet
from ese_deploy.system.progress import Progress, silent

__all__ = ["ConvertedIndex", "convert_index"]

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class ConvertedIndex:
    """What was written.

    Attributes:
        out: the file.
        vectors: number of vectors.
        dim: dimensions of each.
        space: name of their embedding space.
    """

    out: Path
    vectors: int
    dim: int
    space: str


_FORMATS: dict[str, Callable[[Path, str, int], AbstractContextManager[Source]]] = {
    ".npy": open_npy,
    ".parquet": open_parquet,
}


def convert_index(
    bundle: str | Path | Bundle,
    source: str | Path,
    out: str | Path,
    *,
    dim: int | None = None,
    column: str = "embedding",
    overwrite: bool = False,
    progress: Progress = silent,
) -> ConvertedIndex:
    """Bring vectors of the model that a bundle was made of into the bundle's embedding space.

    Afterwards every target of the bundle that shares the space of the full depth and has ``dim`` dimensions can search
    them. The file is read and written in chunks.

    Args:
        bundle: the folder of the bundle, or an open bundle.
        source: vectors of full width that another tool made with the model: a ``.npy`` file, float [n, width], or a
            ``.parquet`` file with a column of lists of floats. Their norms do not matter.
        out: the file to write, in the same format: float32, rows of norm 1. All other columns stay as they are.
        dim: keep the first ``dim`` dimensions. Default: all.
        column: the column of a ``.parquet`` file.
        overwrite: replace ``out`` if it exists.
        progress: called with a stage, the vectors converted and their number.

    Raises:
        BundleError: the bundle is missing or damaged.
        InputError: there is nothing to convert, a file cannot be read or written, or vectors have another width, are
            zero or are not finite.

    Example:
        >>> convert_index("exports/minilm", "old.npy", "new.npy", dim=128)
        ConvertedIndex(out=PosixPath('new.npy'), vectors=5183, dim=128, space='aligned-5b1e2f30')
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    path, target = Path(source), Path(out)
    width = opened.manifest.width
    kept = width if dim is None else dim
    if not 1 <= kept <= width:
        raise InputError(f"`dim` must be between 1 and {width}, the width of the model, got {kept}.")
    if path.suffix not in _FORMATS or target.suffix != path.suffix:
        raise InputError(f"Cannot convert {path} to {target}. Both must be .npy files, or both .parquet files.")
    if path.exists() and target.exists() and path.samefile(target):
        raise InputError(f"{target} is the index itself. Write to another file, and replace the old one afterwards.")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists. Name another file, or replace it with `overwrite`.")
    if not target.parent.is_dir():
        raise InputError(f"Cannot write {target}: there is no folder {target.parent}. Make it, or name another.")
    matrix, space = rotation(opened), full_depth_space(opened.manifest)
    assert space is not None  # or there would be no rotation
    if matrix is None and kept == width:
        raise InputError(
            f"{opened.path} has the embedding space of its source model ({space}), so there is nothing to convert. "
            "Search the index as it is."
        )
    with _FORMATS[path.suffix](path, column, width) as read:
        if read.space == space:
            raise InputError(f"{path} is in the embedding space {space} already. Search it as it is.")
        progress("convert", 0, read.count)
        read.write(target, kept, space, _rotated(read, matrix, kept, progress))
        return ConvertedIndex(target, read.count, kept, space)


def _rotated(read: Source, matrix: Vectors | None, dim: int, progress: Progress) -> Iterator[Vectors]:
    """Chunks of float32 [n, dim], rows of norm 1."""
    done = 0
    for chunk in read.chunks():
        norms = np.linalg.norm(chunk.astype(np.float64), axis=1)
        wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
        if len(wrong):
            raise InputError(f"Vector {done + int(wrong[0])} is zero or not finite. Remove it from the index.")
        vectors = chunk.astype(np.float32) if matrix is None else chunk.astype(np.float32) @ matrix[:dim].T
        cut = vectors[:, :dim]
        yield cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), np.float32(1e-12))
        done += len(chunk)
        progress("convert", done, read.count)
