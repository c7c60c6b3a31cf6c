"""Tables that more than one command prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ese_deploy.bundle.manifest import Manifest, TargetEntry
from ese_deploy.cli.console import megabytes

if TYPE_CHECKING:
    from ese_deploy.verify import TargetCheck

__all__ = ["check_rows", "target_rows"]


def check_rows(checks: "Sequence[TargetCheck]", manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the checks of targets, with the agreement that the manifest states."""
    values = {entry.name: _agreement(entry) for entry in manifest.targets}
    columns = ["target", "max |diff| ", "min cosine ", "batch ", "padding ", "agreement ", "weights ", "result"]
    rows = []
    for check in checks:
        parity = check.parity
        rows.append(
            [
                str(check.entry.target),
                f"{parity.max_abs:.1e}",
                f"{parity.cosine_min:.8f}",
                f"{check.batch_max_abs:.1e}",
                f"{check.padding_max_abs:.1e}",
                values.get(check.entry.name, ""),
                megabytes(check.entry.weight_bytes),
                f"{'passed' if parity.passed else 'FAILED'}{', emulated' if parity.emulated else ''}",
            ]
        )
    return columns, rows


def target_rows(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a bundle's targets."""
    columns = ["target", "file", "space", "weights ", "max |diff| ", "agreement ", "trained"]
    rows = [
        [
            str(entry.target),
            entry.file,
            entry.space,
            megabytes(entry.weight_bytes),
            entry.largest_difference,
            _agreement(entry),
            "yes" if entry.trained else "no",
        ]
        for entry in manifest.targets
    ]
    return columns, rows


def _agreement(entry: TargetEntry) -> str:
    return next((f"{quality.value:.3f}" for quality in entry.quality if quality.metric == "agreement"), "")
