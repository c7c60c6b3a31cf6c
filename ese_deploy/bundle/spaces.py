"""Embedding spaces of a bundle: its own, and that of the model that it was made of.

The bundle's own space is rotated onto principal components, so that every prefix is meaningful. The source space is
that of the unprojected full depth, in which other tools compute the vectors of the published model. Without projections
the two are the same.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import Manifest, TargetEntry
from ese_deploy.bundle.reader import Bundle, read_projection
from ese_deploy.errors import BundleError, InputError
from ese_deploy.projections.projection import read_exit_matrix

__all__ = [
    "SPACES",
    "Space",
    "check_space",
    "describe_spaces",
    "full_depth_space",
    "invert",
    "reaches_source",
    "rotation",
    "source_matrix",
    "source_space",
    "space_name",
]

Space = Literal["bundle", "source"]
SPACES = ("bundle", "source")

# A rotation in fp32 has this distance from an exact one at most.
_ORTHOGONAL = 1e-4
_LARGEST_CONDITION = 1e4


def check_space(space: str) -> None:
    """Check the name of a choice of embedding spaces.

    Raises:
        InputError: it is not one of :data:`SPACES`.
    """
    if space not in SPACES:
        raise InputError(f"Unknown `space` '{space}'. Choose one of: {', '.join(SPACES)}.")


def full_depth_space(manifest: Manifest) -> str | None:
    """Name of the embedding space of the full depth; None if an old bundle does not tell."""
    if manifest.full_depth_space is not None:
        return manifest.full_depth_space
    return next((entry.space for entry in manifest.targets if entry.depth == manifest.depth), None)


def source_space(manifest: Manifest) -> str:
    """Name of the embedding space of the full depth without projections."""
    if manifest.source_space is not None:
        return manifest.source_space
    own = full_depth_space(manifest) if manifest.projection == "prefix" else None
    return own or f"exit{manifest.depth:02d}"


def reaches_source(manifest: Manifest, entry: TargetEntry) -> bool:
    """Whether vectors of a target are in the source space, or can be rotated into it."""
    own = full_depth_space(manifest)
    return entry.space == own and (own == source_space(manifest) or entry.dim == manifest.width)


def space_name(manifest: Manifest, entry: TargetEntry, space: Space) -> str:
    """Name of the embedding space of a target's vectors."""
    return source_space(manifest) if space == "source" else entry.space


def source_matrix(bundle: Bundle, entry: TargetEntry) -> NDArray[np.float32] | None:
    """The matrix that brings vectors of a target into the source space.

    Returns:
        M of z = M y, float32 [width, width]; z has to be scaled to norm 1. None if y is in that space already.

    Raises:
        InputError: the target's vectors cannot be brought into the source space.
        BundleError: the projections cannot be read.
    """
    manifest = bundle.manifest
    own, source = full_depth_space(manifest), source_space(manifest)
    if entry.space == source:
        return None
    if entry.space != own:
        raise InputError(
            f"Vectors of target {entry.target} (embedding space {entry.space}) do not share the space of the full "
            f"depth, so `space=source` is not possible. Choose depth {manifest.depth}, or export with "
            "`projection=aligned`."
        )
    if entry.dim < manifest.width:
        raise InputError(
            f"Target {entry.target} gives a prefix in the bundle's own embedding space ({entry.space}), and `space="
            f"source` needs all {manifest.width} dimensions. Choose {entry.depth}x{manifest.width}, or convert the "
            f"index once: ese-deploy convert-index {bundle.path} INDEX OUT --dim {entry.dim}"
        )
    matrix = rotation(bundle)
    return None if matrix is None else invert(matrix, str(bundle.path))


def rotation(bundle: Bundle) -> NDArray[np.float32] | None:
    """The matrix that brings vectors of the source space into the bundle's own space.

    Returns:
        M of y = M z, float32 [width, width]; y has to be scaled to norm 1. None if both spaces are the same.

    Raises:
        InputError: the full depth has no projection of its vector.
        BundleError: the projections cannot be read.
    """
    manifest = bundle.manifest
    if full_depth_space(manifest) == source_space(manifest):
        return None
    where = str(bundle.path)
    stored = read_projection(bundle)
    matrix = None if stored is None else read_exit_matrix(stored, manifest.depth, where)
    if matrix is None or matrix.shape != (manifest.width, manifest.width):
        raise InputError(
            f"{where} has no projection of depth {manifest.depth}, which connects its embedding space with that of "
            "the source model. Export the bundle again, or download all of it."
        )
    return matrix


def describe_spaces(manifest: Manifest) -> list[str]:
    """Sentences that say which embedding spaces the vectors are in, and what follows for an existing index."""
    own, source = full_depth_space(manifest), source_space(manifest)
    names = ", ".join(f"`{name}`" for name in sorted({entry.space for entry in manifest.targets}))
    sentences = [f"Vectors are comparable within one embedding space only. This bundle: {names}."]
    if own is None:
        return sentences
    if own == source:
        sentences.append(
            f"`{own}` is the source space, in which other tools compute vectors of `{manifest.source.model}`."
        )
        return sentences
    reach = [str(entry.target) for entry in manifest.targets if reaches_source(manifest, entry)]
    opened = f" {', '.join(reach)} can search it as it is, with the option space=source." if reach else ""
    sentences.append(
        f"`{own}` is rotated onto principal components: it is not the space of an index that other tools made with "
        f"`{manifest.source.model}`.{opened} For prefixes, convert the index with ese-deploy convert-index."
    )
    return sentences


def invert(matrix: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """The inverse of the projection of the full depth: its transpose, unless training has changed the rotation.

    Args:
        matrix: float32 [width, width].
        where: what has this projection, for the error message.

    Raises:
        BundleError: the matrix cannot be inverted with the accuracy of fp32.
    """
    exact = matrix.astype(np.float64)
    if np.abs(exact @ exact.T - np.eye(len(exact))).max() <= _ORTHOGONAL:
        return np.ascontiguousarray(matrix.T)
    if not np.linalg.cond(exact) <= _LARGEST_CONDITION:
        raise BundleError(f"The projection of the full depth in {where} cannot be inverted. Export the bundle again.")
    inverse: NDArray[np.float32] = np.linalg.inv(exact).astype(np.float32)
    return inverse
