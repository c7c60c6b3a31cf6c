"""Records of runs, one file each, and summary figures."""

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
"""The metric for choices."""

ACROSS = "ndcg_at_10_across"
"""Queries of one depth among documents of another: cells such as ``3>6x128``."""

Figures = dict[str, dict[str, float]]
"""``METRIC@DATA`` to a value for each cell, such as ``{"sts_spearman@stsb_dev": {"1x32": 0.676}}``."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A completed run, or its test.

    Attributes:
        key: hash of the settings.
        label: for messages.
        settings: everything that determines the outcome: model, options, loss, learning rate, seed, hashes of data.
        figures: measured values; empty if training failed.
        failed: the reason, or empty.
        minutes: wall time of training without pauses; None if unknown.
        cpu_minutes: CPU time of training, all cores.
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
        InputError: a file is not a record.
    """
    records = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=Record)
        except (OSError, msgspec.DecodeError) as error:
            raise InputError(f"{path} is not a record of a run: {error}. Remove it to repeat the run.") from None
        records[record.key] = record
    return records


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomic(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def criterion(figures: Mapping[str, Mapping[str, float]], data: str, cell: str) -> float:
    """The figure for choices: Spearman x 100 of one cell, or the mean over the grid; -inf if missing."""
    cells = figures.get(f"{DEV}@{data}", {})
    values = [value for name, value in cells.items() if name == cell or not cell]
    return 100 * statistics.fmean(values) if values and all(map(math.isfinite, values)) else -math.inf


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation if there are several values."""
    found = list(values)
    return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None
