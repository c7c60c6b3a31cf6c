"""Cosine similarity of vectors."""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ese_deploy.bundle.manifest import Manifest
from ese_deploy.bundle.spaces import source_space
from ese_deploy.errors import InputError
from ese_deploy.target import Target

__all__ = ["check_comparable", "cosine_similarity"]


class _Vectors(Protocol):
    """What is known of the encoder of some vectors."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def target(self) -> Target: ...

    @property
    def space(self) -> str: ...


def check_comparable(first: _Vectors, second: _Vectors) -> None:
    """Check that vectors of two encoders are in one embedding space.

    Raises:
        InputError: the spaces differ, or spaces of one name belong to different checkpoints.
    """
    sources = [encoder.manifest.source for encoder in (first, second)]
    if sources[0].weights_sha256 != sources[1].weights_sha256:
        raise InputError(
            f"Vectors of {sources[0].model} and of {sources[1].model} are not comparable: the bundles were made of "
            "different weights. Embed both with one bundle."
        )
    if first.space == second.space:
        return
    named = [f"target {encoder.target} (embedding space {encoder.space})" for encoder in (first, second)]
    to_source = source_space(first.manifest) == source_space(second.manifest) in (first.space, second.space)
    advice = (
        "Open both with `space=source`, or convert the vectors with ese-deploy convert-index."
        if to_source
        else "Embed both with one target."
    )
    raise InputError(f"Vectors of {named[0]} and of {named[1]} are not comparable. {advice}")


def cosine_similarity(first: ArrayLike, second: ArrayLike, target: Target) -> NDArray[np.float32]:
    """Cosine of each vector of ``first`` with each of ``second``.

    Args:
        first: vectors, [n, dim] or [dim]; dim may be below that of the target.
        second: vectors, [m, dim] or [dim].
        target: the target that made them.

    Returns:
        float32 [n, m].

    Raises:
        InputError: the vectors differ in their dimensions, have more than the target, or are quantized.
    """
    left, right = (_unit_rows(np.asarray(vectors), target) for vectors in (first, second))
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"Vectors of {left.shape[1]} and of {right.shape[1]} dimensions are not comparable. Embed both sides with "
            "one target, and with the same `dim`."
        )
    cosines: NDArray[np.float32] = left @ right.T
    return cosines


def _unit_rows(vectors: NDArray[np.generic], target: Target) -> NDArray[np.float32]:
    if vectors.dtype in (np.int8, np.uint8):
        raise InputError(
            f"similarity compares vectors of precision float32, got {vectors.dtype}. Search quantized vectors with the "
            "index that holds them."
        )
    rows = np.atleast_2d(vectors).astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] > target.dim:
        raise InputError(
            f"Vectors of target {target} have the shape [n, {target.dim}], got {list(rows.shape)}. Embed both sides "
            "with one target."
        )
    # First to a largest component of 1: the squares of large components overflow, and those of small ones vanish.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    scaled = rows / np.where(largest > 0, largest, 1)
    unit: NDArray[np.float64] = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    return unit.astype(np.float32)
