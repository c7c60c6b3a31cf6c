"""Verifying the targets of a bundle against one checkpoint."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from ese_deploy.backbones import Checkpoint
from ese_deploy.bundle.manifest import TargetEntry
from ese_deploy.bundle.reader import Bundle, read_projection
from ese_deploy.engines import Engine
from ese_deploy.errors import BundleError
from ese_deploy.projections.projection import decode_projections
from ese_deploy.system.progress import Progress, silent
from ese_deploy.verify.parity import TargetCheck, check_target
from ese_deploy.verify.reference import Reference
from ese_deploy.verify.texts import verification_texts

__all__ = ["check_targets"]


def check_targets(
    bundle: Bundle,
    checkpoint: Checkpoint,
    engine: Engine,
    entries: Sequence[TargetEntry],
    progress: Progress = silent,
) -> Iterator[tuple[TargetCheck, Reference]]:
    """Check targets one by one, loading a PyTorch model once for each depth.

    Args:
        bundle: the bundle.
        checkpoint: the checkpoint that it must equal.
        engine: the engine that runs the graphs.
        entries: the targets to check.
        progress: called after each target.

    Yields:
        What was found of a target, and the PyTorch model it was compared with.

    Raises:
        BundleError: the bundle lacks the projection of an exit.
    """
    fitted = read_projection(bundle)
    projections = {} if fitted is None else decode_projections(fitted, str(bundle.path))
    done = 0
    progress("verify", done, len(entries))
    for depth, group in groupby(sorted(entries, key=lambda entry: entry.depth), key=lambda entry: entry.depth):
        if fitted is not None and depth not in projections and bundle.manifest.projection != "trained":
            raise BundleError(f"{bundle.path} holds no projection of exit {depth}; export the bundle again")
        reference = Reference(checkpoint, depth, projections.get(depth))
        texts = verification_texts(reference.count_tokens, checkpoint.max_seq_length)
        pooled = reference.pool(texts)
        for entry in group:
            yield check_target(bundle, entry, engine, texts, reference.cut(pooled, entry.dim)), reference
            done += 1
            progress("verify", done, len(entries))
