"""The user's calibration texts, and fitting projections on them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ese_deploy.alignment import CrossMoments, fit_alignment
from ese_deploy.backbones import Checkpoint, Exits
from ese_deploy.backbones.dense import load_head
from ese_deploy.bundle import Bundle, read_projection
from ese_deploy.errors import InputError
from ese_deploy.evaluate.checkpoint import text_tokenizer
from ese_deploy.export.projection import Fitted
from ese_deploy.export.trace import input_names
from ese_deploy.files import sha256_file
from ese_deploy.linear import LinearMap, load_maps
from ese_deploy.manifest import Calibration
from ese_deploy.pca import Moments, fit_pca
from ese_deploy.progress import Progress, silent
from ese_deploy.runtime.batching import plan_batches
from ese_deploy.textfile import TextFile, chunks, open_texts

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

    Memory holds a window of texts and one or two matrices [width, width] for each exit, however many texts there are.

    Args:
        checkpoint: the checkpoint.
        backbone: its backbone, loaded.
        depths: the exits.
        kind: ``pca`` turns each onto its own principal components, ``aligned`` maps it into the full model's space.
        calibration: the texts.
        existing: a bundle made with the same texts, whose projections are kept as they are.
        progress: called after each window.

    Raises:
        InputError: the file changed since it was checked and holds too few texts now.
        BundleError: the existing projections cannot be read.
    """
    held = {} if existing is None else load_maps(read_projection(existing) or b"", str(existing.path))
    wanted = sorted(set(depths) - set(held))
    if not wanted:
        return Fitted(kind, calibration.entry, held)
    full, width = checkpoint.depth, checkpoint.width
    computed = {*wanted, full} if kind == "aligned" else wanted
    batches = _exit_vectors(checkpoint, backbone, computed, calibration, progress)
    if kind == "aligned":
        return Fitted(kind, calibration.entry, {**held, **_fit_aligned(batches, wanted, full, width)})
    moments = {depth: Moments(width) for depth in wanted}
    for vectors in batches:
        for depth in wanted:
            moments[depth].add(vectors[depth])
    return Fitted(kind, calibration.entry, {**held, **{depth: fit_pca(moments[depth]) for depth in wanted}})


def _fit_aligned(
    batches: Iterable[Mapping[int, NDArray[np.float32]]], wanted: Iterable[int], full: int, width: int
) -> dict[int, LinearMap]:
    """Maps into the full model's space, where that of the full model is the identity."""
    moments = {depth: CrossMoments(width) for depth in wanted if depth != full}
    for vectors in batches:
        for depth, found in moments.items():
            found.add(vectors[depth], vectors[full])
    maps = {depth: fit_alignment(found) for depth, found in moments.items()}
    return {**maps, full: LinearMap(np.eye(width, dtype=np.float32))}


def _exit_vectors(
    checkpoint: Checkpoint,
    backbone: nn.Module,
    depths: Iterable[int],
    calibration: CalibrationTexts,
    progress: Progress,
) -> Iterator[dict[int, NDArray[np.float32]]]:
    """Vectors of every exit, float32 [batch, width], a batch of the texts at a time."""
    exits = Exits(backbone, checkpoint.architecture, checkpoint.pooling, sorted(depths), load_head(checkpoint.head))
    tokenizer = text_tokenizer(checkpoint)
    names = input_names(checkpoint)
    prefix = checkpoint.prompts.get(checkpoint.default_prompt_name or "", "")
    total, done = calibration.entry.texts, 0
    progress("calibrate", done, total)
    for rows in chunks(calibration.texts, _WINDOW):
        tokens = tokenizer([prefix + row.text for row in rows])
        for places in plan_batches(tokens.lengths, _BATCH_SIZE, _BATCH_TOKENS):
            batch = tokenizer.collate([tokens.encodings[place] for place in places], names)
            with torch.no_grad():
                vectors = exits(*(torch.from_numpy(batch[name]) for name in names))
            yield {depth: found.numpy() for depth, found in vectors.items()}
        done += len(rows)
        progress("calibrate", done, total)
