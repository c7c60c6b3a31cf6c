"""Texts to calibrate on: the user's own, or half of the sample corpus; the other half is held out."""

from dataclasses import dataclass, replace
from pathlib import Path

from ese_deploy.bundle.manifest import Calibration
from ese_deploy.errors import InputError
from ese_deploy.system.files import expand, sha256_file
from ese_deploy.texts.reader import TextFile, open_texts
from ese_deploy.texts.sample import sample_corpus

__all__ = ["MIN_TEXTS", "CalibrationTexts", "calibration_half", "held_out_half", "read_calibration"]

MIN_TEXTS = 128
"""The least number of calibration texts; the range of an activation over fewer is not reliable."""


@dataclass(frozen=True)
class CalibrationTexts:
    """A file of texts to fit projections, activation scales and output ranges on.

    Attributes:
        texts: the file.
        entry: its entry in the manifest.
        filled: number of texts that are not blank.
    """

    texts: TextFile
    entry: Calibration
    filled: int

    def require(self, wanted: int) -> None:
        """Check the number of texts.

        Raises:
            InputError: there are fewer.
        """
        if self.filled < wanted:
            blank = self.entry.texts - self.filled
            also = f" and {blank} blank lines" if blank else ""
            raise InputError(
                f"{self.texts.path} contains {self.filled} texts{also}, too few to calibrate on. Use at least {wanted}."
            )


def read_calibration(path: str | Path, wanted: int = MIN_TEXTS) -> CalibrationTexts:
    """Read through a file of calibration texts, count and hash it.

    Args:
        path: ``.txt`` with a text on each line, or ``.jsonl`` with the field ``text``.
        wanted: how many texts are needed.

    Raises:
        InputError: the file is missing or broken, or contains too few texts.
    """
    path = expand(path)
    texts = replace(open_texts(path, "text"), advice="Rename the field to 'text'.")
    count = filled = 0
    for row in texts:
        count += 1
        filled += bool(row.text.strip())
    entry = Calibration(file=path.name, sha256=sha256_file(path), texts=count)
    calibration = CalibrationTexts(texts, entry, filled)
    calibration.require(wanted)
    return calibration


def calibration_half() -> list[str]:
    """The default calibration texts: every other text of the sample corpus."""
    return [item.text for item in sample_corpus()[::2]]


def held_out_half() -> list[str]:
    """The other texts of the sample corpus, on which the quality of int8 is checked."""
    return [item.text for item in sample_corpus()[1::2]]
