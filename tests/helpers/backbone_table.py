"""Writes the table of docs/reference/backbones.md from what the tests of the backbones measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BackboneRow", "write_table"]

_BEGIN, _END = "<!-- table begins -->\n", "<!-- table ends -->\n"


@dataclass(frozen=True)
class BackboneRow:
    """The largest differences of a backbone from PyTorch at one opset, by padding side."""

    name: str
    model_type: str
    pooling: str
    opset: int
    engine: str
    right: float
    left: float | None


def write_table(page: Path, rows: Sequence[BackboneRow]) -> None:
    """Replace the table of a page.

    Args:
        page: a Markdown file that marks where the table begins and ends.
        rows: one for each backbone and opset.
    """
    before, _, rest = page.read_text("utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    page.write_text(f"{before}{_BEGIN}{_table(rows)}{_END}{after}", "utf-8")


def _table(rows: Sequence[BackboneRow]) -> str:
    opsets = sorted({row.opset for row in rows}, reverse=True)
    by_name: dict[str, dict[int, BackboneRow]] = {}
    for row in rows:
        by_name.setdefault(row.name, {})[row.opset] = row
    heads = " | ".join(f"opset {opset}" for opset in opsets)
    lines = [
        f"| backbone | `model_type` | pooling | {heads} | left padding | engines |",
        f"|---|---|---|{'---:|' * len(opsets)}---:|---|",
        *(_line(found, opsets) for found in by_name.values()),
    ]
    return "\n".join(lines) + "\n"


def _line(found: dict[int, BackboneRow], opsets: Sequence[int]) -> str:
    row = next(iter(found.values()))
    differences = " | ".join(f"{found[opset].right:.1e}" if opset in found else "-" for opset in opsets)
    lefts = [item.left for item in found.values() if item.left is not None]
    left = f"{max(lefts):.1e}" if lefts else "-"
    engines = ", ".join(sorted({item.engine for item in found.values()}))
    return f"| {row.name} | `{row.model_type}` | {row.pooling} | {differences} | {left} | {engines} |"
