"""Fitting projections on the calibration texts of the user."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ese_deploy.backbones import Checkpoint, exit_states, pool
from ese_deploy.backbones.dense import load_head
from ese_deploy.backbones.exits import join_states
from ese_deploy.bundle.reader import Bundle, read_projection
from ese_deploy.evaluate.checkpoint import text_tokenizer
from ese_deploy.export.projection import BundleProjections
from ese_deploy.export.texts import CalibrationTexts
from ese_deploy.export.trace import input_names
from ese_deploy.projections.pca import Moments, fit_pca
from ese_deploy.projections.projection import Projection, decode_projections, input_states
from ese_deploy.projections.ridge import fit_ridge_projections
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.system.progress import Progress, silent
from ese_deploy.texts.reader import chunks
from ese_deploy.texts.sentences import with_sentence_groups

__all__ = ["fit_projections"]

# Texts that are tokenized and sorted together, and the largest batch.
_WINDOW = 1024
_BATCH_SIZE, _BATCH_TOKENS = 32, 4096


def fit_projections(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    depths: Iterable[int],
    kind: str,
    calibration: CalibrationTexts,
    existing: Bundle | None = None,
    progress: Progress = silent,
) -> BundleProjections:
    """Fit the projections of several exits in one pass over the texts.

    Memory use does not grow with the number of texts: a window of texts, and one or two matrices for each exit.

    Args:
        checkpoint: the checkpoint.
        backbone: its backbone, loaded.
        depths: the exits.
        kind: ``pca`` rotates the vectors of each exit onto their own principal components; ``aligned`` projects the
            states up to an exit onto the principal components of the full model's vectors, by ridge regression on the
            texts and on spans of them.
        calibration: the texts.
        existing: a bundle made with the same texts, whose projections are kept.
        progress: called after each window.

    Raises:
        InputError: the file was changed since it was checked, and contains too few texts now.
        BundleError: the existing projections cannot be read.
    """
    kept = {} if existing is None else decode_projections(read_projection(existing) or b"", str(existing.path))
    wanted = sorted(set(depths) - set(kept))
    if not wanted:
        return BundleProjections(kind, calibration.entry, kept)
    if kind == "aligned":
        components = kept.get(checkpoint.depth)
        fitted = _fit_aligned(checkpoint, backbone, wanted, calibration, progress, components)
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
    for pooled in _pooled_states(checkpoint, backbone, depths, calibration, progress):
        for depth in depths:
            moments[depth].add(head(pooled[depth]).numpy())
    return {depth: fit_pca(moments[depth]) for depth in depths}


def _fit_aligned(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    depths: Sequence[int],
    calibration: CalibrationTexts,
    progress: Progress,
    components: Projection | None,
) -> dict[int, Projection]:
    """Ridge projections onto the principal components of the full model's vectors.

    ``components`` is the rotation onto them, the projection of the full depth, if the bundle has it already.
    """
    full, head = checkpoint.depth, load_head(checkpoint.head)
    read = {depth: input_states(depth) for depth in depths if depth != full}
    needed = {full, *(state for states in read.values() for state in states)}
    return fit_ridge_projections(
        full,
        checkpoint.width,
        read,
        (
            (
                {depth: join_states([pooled[state] for state in states]).numpy() for depth, states in read.items()},
                head(pooled[full]).numpy(),
            )
            for pooled in _pooled_states(checkpoint, backbone, needed, calibration, progress, with_sentence_groups)
        ),
        components=components,
    )


def _pooled_states(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    states: Iterable[int],
    calibration: CalibrationTexts,
    progress: Progress,
    widen: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Iterator[dict[int, Tensor]]:
    """The pooled token states after some layers, float32 [batch, pooled], one batch of texts at a time."""
    wanted = sorted(states)
    tokenizer = text_tokenizer(checkpoint)
    names = input_names(checkpoint)
    prefix = checkpoint.prompts.get(checkpoint.default_prompt_name or "", "")
    total, done = calibration.entry.texts, 0
    progress("calibrate", done, total)
    for rows in chunks(calibration.texts, _WINDOW):
        tokens = tokenizer([prefix + text for text in widen(row.text for row in rows)])
        for places in plan_batches(tokens.lengths, _BATCH_SIZE, _BATCH_TOKENS):
            batch = tokenizer.collate([tokens.encodings[place] for place in places], names)
            inputs = [torch.from_numpy(batch[name]) for name in names]
            with torch.no_grad():
                found = exit_states(backbone, checkpoint.architecture, *inputs)
                yield {state: pool(found[state], inputs[1], checkpoint.pooling) for state in wanted}
        done += len(rows)
        progress("calibrate", done, total)
