"""What runs found: one file for each, and their sums."""

import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ese_deploy.errors import InputError
from ese_deploy.system.files import write_atomic
from ese_deploy.system.machine import Machine

__all__ = ["ACROSS", "DEV", "Figures", "Record", "criterion", "mean_and_spread", "read_records", "write_json"]

DEV = "sts_spearman"
"""What choices are made by."""

ACROSS = "ndcg_at_10_across"
"""Of queries of one depth among documents of another: cells such as ``3>6x128``."""

Figures = dict[str, dict[str, float]]
"""``METRIC@DATA`` to a value for each cell, such as ``{"sts_spearman@stsb_dev": {"1x32": 0.676}}``."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was done, or its test.

    Attributes:
        key: of what decides the outcome.
        label: for people.
        settings: what decided the outcome: model, flags, settings of the loss, learning rate, seed, hashes of data.
        figures: what was measured; empty where training failed.
        failed: the reason, or empty.
        minutes: of training by the clock, pauses not counted; None where it was not watched to its end.
        cpu_minutes: of training, over all cores.
        date: when it ended.
        machine: where it ran.
        versions: of the libraries.
    """

    key: str
    label: str
    settings: dict[str, Any]
    figures: Figures
    failed: str = ""
    minutes: float | None = None
    cpu_minutes: float | None = None
    date: str
    machine: Machine
    versions: dict[str, str]


def read_records(folder: Path) -> dict[str, Record]:
    """The records of a folder by their keys.

    Raises:
        InputError: a file is none.
    """
    records = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{path} is no record of a run: {error}; remove it to run that again") from None
        records[record.key] = record
    return records


def write_json(path: Path, content: Any) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def criterion(figures: Mapping[str, Mapping[str, float]], data: str, cell: str) -> float:
    """What a choice is made by: Spearman x 100, of one cell or the mean over the grid; -inf where there is none."""
    cells = figures.get(f"{DEV}@{data}", {})
    values = [value for name, value in cells.items() if name == cell or not cell]
    return 100 * statistics.fmean(values) if values and all(map(math.isfinite, values)) else -math.inf


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over the seeds where there are several."""
    found = list(values)
    return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None
