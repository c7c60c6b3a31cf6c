"""Verifying targets against one checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.manifest import Manifest, TargetEntry
from ese_deploy.bundle.reader import Bundle
from ese_deploy.bundle.spaces import full_depth_space, source_space
from ese_deploy.engines import Engine
from ese_deploy.errors import BundleError
from ese_deploy.projections.projection import Projection
from ese_deploy.system.progress import Progress, silent
from ese_deploy.verify.parity import check_target
from ese_deploy.verify.reference import Reference
from ese_deploy.verify.report import TargetCheck
from ese_deploy.verify.texts import verification_texts

__all__ = ["check_targets"]


def check_targets(
    bundle: Bundle,
    checkpoint: Checkpoint,
    engine: Engine,
    entries: Sequence[TargetEntry],
    projections: Mapping[int, Projection] | None,
    progress: Progress = silent,
) -> Iterator[tuple[TargetCheck, Reference]]:
    """Check targets one by one; a PyTorch model is loaded once for each depth.

    Args:
        bundle: the bundle.
        checkpoint: the checkpoint to compare with.
        engine: the engine that runs the graphs.
        entries: the targets to check.
        projections: the projection of each exit; None for plain prefixes.
        progress: called after each target.

    Yields:
        The check of a target, and the PyTorch model that it was compared with.

    Raises:
        BundleError: the bundle lacks the projection of an exit.
    """
    done = 0
    progress("verify", done, len(entries))
    for depth, group in groupby(sorted(entries, key=lambda entry: entry.depth), key=lambda entry: entry.depth):
        projection = None if projections is None else projections.get(depth)
        # Training does not have to make a projection for every exit.
        needed = bundle.manifest.projection != "trained" and not _is_unprojected(bundle.manifest, depth)
        if projections is not None and projection is None and needed:
            raise BundleError(f"{bundle.path} has no projection of exit {depth}. Export the bundle again.")
        reference = Reference(checkpoint, depth, projection)
        texts = verification_texts(reference.count_tokens, checkpoint.max_seq_length)
        pooled = reference.pool(texts)
        for entry in group:
            yield check_target(bundle, entry, engine, texts, reference.cut(pooled, entry.dim)), reference
            done += 1
            progress("verify", done, len(entries))


def _is_unprojected(manifest: Manifest, depth: int) -> bool:
    """Whether an exit needs no projection: the full depth of a bundle in the source space."""
    return depth == manifest.depth and full_depth_space(manifest) == source_space(manifest)
