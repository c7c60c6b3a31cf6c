"""The page "Works with", from the recorded results."""

import json
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "RESULTS", "page"]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/works_with.json"
PAGE = ROOT / "docs/reference/works-with.md"

_HEAD = """# Works with

<!-- Generated from benchmarks/results/works_with.json: python -m benchmarks.works_with page -->

Each tool was run on {texts} texts: plain and long ones, empty and blank ones, code, emoji, six scripts, and texts with
a prompt. The model is all-MiniLM-L6-v2 after 20 steps of the preset `label-free`, with trained projections. A figure is
the largest difference of any component from the vectors of `Encoder` (fp32, ONNX Runtime).
"""
_SECTIONS = {
    "checkpoint": "Tools that read the checkpoint",
    "bundle": "Tools that read the bundle",
    "JavaScript": "JavaScript",
    "adapter": "Frameworks with an adapter in `ese_deploy.integrations`",
}
_FOOT = """
"-": the tool always runs the full model.

transformers.js cuts the closing special token off long texts if it truncates them itself. The figures are for
ids that were cut as in [Use a target in another tool](../guides/pack.md#transformersjs).

The layout of a checkpoint is also that of text-embeddings-inference, infinity and vLLM. They were not run here.

[Use a bundle in other frameworks](../guides/frameworks.md) shows the adapters, and the examples in `examples/node` and
`examples/browser` JavaScript.
"""


def page() -> str:
    """The Markdown text."""
    rows: list[dict[str, Any]] = json.loads(RESULTS.read_text("utf-8"))
    parts = [_HEAD.format(texts=rows[0]["texts"])]
    for reads, title in _SECTIONS.items():
        lines = [_line(row) for row in rows if row["reads"] == reads]
        if lines:
            table = ["| tool | version | use | 6x384 | 6x128 | 3x128 |", "|---|---|---|---:|---:|---:|", *lines]
            parts.append("\n".join([f"\n## {title}\n", *table]) + "\n")
    return "".join([*parts, _FOOT])


def _line(row: dict[str, Any]) -> str:
    figures = [f"{row['largest'][name]:.0e}" if name in row["largest"] else "-" for name in ("6x384", "6x128", "3x128")]
    return f"| {row['tool']} | {row['version']} | `{row['command']}` | {' | '.join(figures)} |"
