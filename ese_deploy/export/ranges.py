"""Measuring the range of each component of a target's vectors, on the calibration texts or the sample corpus."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.ranges import TargetRanges
from ese_deploy.bundle.reader import Bundle, choose_entry
from ese_deploy.evaluate.exits import cut
from ese_deploy.export.exit_vectors import ExitVectors
from ese_deploy.export.texts import CalibrationTexts
from ese_deploy.system.progress import Progress
from ese_deploy.target import Target
from ese_deploy.texts.reader import chunks
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus, sample_corpus_sha256

__all__ = ["measure_ranges"]

_PIECE = 512

# A component of a unit vector is at most 1, so that float32 has no more decimals.
_DECIMALS = 8


def measure_ranges(
    bundle: Bundle,
    vectors_of: ExitVectors,
    targets: Sequence[Target],
    calibration: CalibrationTexts | None,
    progress: Progress,
) -> dict[str, TargetRanges]:
    """Embed texts with the widest target of each depth and dtype, of which the others are prefixes.

    Args:
        bundle: the bundle.
        vectors_of: embeds texts with the widest target of each exit.
        targets: the targets to measure.
        calibration: the user's texts; None: the sample corpus.
        progress: called after each exit.

    Returns:
        The ranges by the names of the targets.
    """
    exits: dict[tuple[int, str], list[Target]] = {}
    for target in sorted(targets):
        exits.setdefault((target.depth, target.dtype), []).append(target)
    found: dict[str, TargetRanges] = {}
    progress("ranges", 0, len(exits))
    for done, group in enumerate(exits.values(), start=1):
        ranges = {target: _empty(target.dim) for target in group}
        for vectors in _vectors(vectors_of, group[-1], calibration):
            for target, (lowest, highest) in ranges.items():
                part = cut(vectors, target.dim)
                np.fmin(lowest, np.fmin.reduce(part), out=lowest)
                np.fmax(highest, np.fmax.reduce(part), out=highest)
        found |= {choose_entry(bundle, target).name: _describe(*ends, calibration) for target, ends in ranges.items()}
        progress("ranges", done, len(exits))
    return found


def _empty(dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.full(dim, np.inf, np.float32), np.full(dim, -np.inf, np.float32)


def _vectors(
    vectors_of: ExitVectors, target: Target, calibration: CalibrationTexts | None
) -> Iterator[NDArray[np.float32]]:
    if calibration is None:
        yield vectors_of.of_sample(target)
        return
    pieces = ([row.text for row in rows] for rows in chunks(calibration.texts, _PIECE))
    yield from vectors_of.embed(target, pieces)


def _describe(
    lowest: NDArray[np.float32], highest: NDArray[np.float32], calibration: CalibrationTexts | None
) -> TargetRanges:
    # In a target that failed and was kept, a component can be NaN for every text.
    finite = [np.nan_to_num(values, posinf=0, neginf=0) for values in (lowest, highest)]
    ends = [[round(float(value), _DECIMALS) for value in values] for values in finite]
    if calibration is None:
        return TargetRanges(SAMPLE_CORPUS_NAME, sample_corpus_sha256(), len(sample_corpus()), *ends)
    entry = calibration.entry
    return TargetRanges(entry.file, entry.sha256, entry.texts, *ends)
