"""Fitting projections on the calibration texts of the user."""

from collections.abc import Iterable, Sequence

from torch import nn

from ese_deploy.backbones import Checkpoint
from ese_deploy.backbones.dense import load_head
from ese_deploy.bundle.projections import bundle_projections
from ese_deploy.bundle.reader import Bundle
from ese_deploy.export.projection import BundleProjections
from ese_deploy.export.states import CheckpointStates
from ese_deploy.export.texts import CalibrationTexts
from ese_deploy.fitting import fit_exits
from ese_deploy.projections.pca import Moments, fit_pca
from ese_deploy.projections.projection import Projection
from ese_deploy.projections.tokens import TOKEN_FEATURES
from ese_deploy.system.progress import Progress, silent

__all__ = ["fit_projections"]


def fit_projections(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    depths: Iterable[int],
    kind: str,
    calibration: CalibrationTexts,
    existing: Bundle | None = None,
    progress: Progress = silent,
    features: Iterable[str] = TOKEN_FEATURES,
) -> BundleProjections:
    """Fit the projections of several exits in one pass over the texts.

    Args:
        checkpoint: the checkpoint.
        backbone: its backbone, loaded.
        depths: the exits.
        kind: ``pca`` rotates the vectors of each exit onto their own principal components; ``aligned`` projects the
            states up to an exit onto the principal components of the full model's vectors, by ridge regression on the
            texts and on spans of them.
        calibration: the texts.
        existing: a bundle made with the same texts, whose projections are kept.
        progress: called in each stage.
        features: what aligned projections read beside pooled states, of
            :data:`ese_deploy.projections.tokens.TOKEN_FEATURES`.

    Raises:
        InputError: the file was changed since it was checked, and contains too few texts now.
        BundleError: the existing projections cannot be read.
    """
    kept = {} if existing is None else bundle_projections(existing) or {}
    wanted = sorted(set(depths) - set(kept))
    if not wanted:
        return BundleProjections(kind, calibration.entry, kept)
    if kind == "aligned":
        tokens = next((projection.tokens for projection in kept.values() if projection.tokens), None)
        components = kept.get(checkpoint.depth)
        source = CheckpointStates(checkpoint, backbone, calibration)
        fitted = fit_exits(source, wanted, frozenset(features), progress, components=components, tokens=tokens)
    else:
        fitted = _fit_pca(checkpoint, backbone, wanted, calibration, progress)
    return BundleProjections(kind, calibration.entry, {**fitted, **kept})


def _fit_pca(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    depths: Sequence[int],
    calibration: CalibrationTexts,
    progress: Progress,
) -> dict[int, Projection]:
    moments = {depth: Moments(checkpoint.width) for depth in depths}
    head = load_head(checkpoint.head)
    for batch in CheckpointStates(checkpoint, backbone, calibration, iter).batches(depths, progress):
        for depth in depths:
            moments[depth].add(head(batch.pooled[depth]).numpy())
    return {depth: fit_pca(moments[depth]) for depth in depths}
