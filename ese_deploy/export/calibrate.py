"""The user's calibration texts, and fitting projections on them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ese_deploy.backbones import Checkpoint, exit_states, pool
from ese_deploy.backbones.dense import load_head
from ese_deploy.backbones.exits import join_states
from ese_deploy.bundle.manifest import Calibration
from ese_deploy.bundle.reader import Bundle, read_projection
from ese_deploy.errors import InputError
from ese_deploy.evaluate.checkpoint import text_tokenizer
from ese_deploy.export.projection import Fitted
from ese_deploy.export.trace import input_names
from ese_deploy.projections.pca import Moments, fit_pca
from ese_deploy.projections.projection import Projection, decode_projections, input_states
from ese_deploy.projections.ridge import fit_ridge_projections
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.system.files import sha256_file
from ese_deploy.system.progress import Progress, silent
from ese_deploy.texts.reader import TextFile, chunks, open_texts
from ese_deploy.texts.sentences import with_sentence_groups

__all__ = ["LEAST_TEXTS", "CalibrationTexts", "fit_projections", "read_calibration"]

LEAST_TEXTS = 128
"""Fewer texts say too little of the range of anything."""

# Texts tokenised and sorted at once, and the most of one batch.
_WINDOW = 1024
_BATCH_SIZE, _BATCH_TOKENS = 32, 4096


@dataclass(frozen=True)
class CalibrationTexts:
    """Texts to fit on.

    Attributes:
        texts: the file.
        entry: what the manifest says of it.
    """

    texts: TextFile
    entry: Calibration


def read_calibration(path: Path, wanted: int = LEAST_TEXTS) -> CalibrationTexts:
    """Check a file of calibration texts.

    Args:
        path: ``.txt`` with a text on each line, or ``.jsonl`` with the field ``text``.
        wanted: how many texts are needed.

    Raises:
        InputError: the file is missing or broken, or holds too few texts.
    """
    texts = replace(open_texts(path, "text"), advice="rename the field to 'text'")
    count = filled = 0
    for row in texts:
        count += 1
        filled += bool(row.text.strip())
    if filled < wanted:
        blank = f" and {count - filled} blank lines" if filled < count else ""
        raise InputError(
            f"{path} holds {filled} texts{blank}, which are too few to calibrate on; give at least {wanted}"
        )
    return CalibrationTexts(texts, Calibration(file=path.name, sha256=sha256_file(path), texts=count))


def fit_projections(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    depths: Iterable[int],
    kind: str,
    calibration: CalibrationTexts,
    existing: Bundle | None = None,
    progress: Progress = silent,
) -> Fitted:
    """Fit the maps of several exits in one pass over the texts.

    Memory holds a window of texts and one or two matrices for each exit, as wide as what its map reads, however many
    texts there are.

    Args:
        checkpoint: the checkpoint.
        backbone: its backbone, loaded.
        depths: the exits.
        kind: ``pca`` turns each onto its own principal components; ``aligned`` maps what the model has computed up to
            it onto the principal components of the full model's vectors, of the texts and of their spans.
        calibration: the texts.
        existing: a bundle made with the same texts, whose projections are kept as they are.
        progress: called after each window.

    Raises:
        InputError: the file changed since it was checked and holds too few texts now.
        BundleError: the existing projections cannot be read.
    """
    held = {} if existing is None else decode_projections(read_projection(existing) or b"", str(existing.path))
    wanted = sorted(set(depths) - set(held))
    if not wanted:
        return Fitted(kind, calibration.entry, held)
    if kind == "aligned":
        turn = held.get(checkpoint.depth)
        fitted = _fit_aligned(checkpoint, backbone, wanted, calibration, progress, turn)
    else:
        fitted = _fit_pca(checkpoint, backbone, wanted, calibration, progress)
    return Fitted(kind, calibration.entry, {**fitted, **held})


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
    turn: Projection | None,
) -> dict[int, Projection]:
    """Maps onto the principal components of the full model's vectors, which the full model's own map turns to.

    That map is ``turn`` where other exits have it already.
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
        components=turn,
    )


def _pooled_states(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    states: Iterable[int],
    calibration: CalibrationTexts,
    progress: Progress,
    widen: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Iterator[dict[int, Tensor]]:
    """The pooled token states of some blocks, float32 [batch, pooled], a batch of the texts at a time."""
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
