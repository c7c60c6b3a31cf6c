"""Writes docs/backbones.md from what the tests of the backbones measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from ese_deploy.backbones import POOLINGS
from ese_deploy.export.request import MINIMUM_ONNXRUNTIME

__all__ = ["COMMAND", "BackboneRow", "page"]

COMMAND = "python -m pytest tests/test_backbones.py --backbone-table docs/backbones.md"


@dataclass(frozen=True)
class BackboneRow:
    """What a test found of a backbone at one opset; the largest differences from PyTorch by padding side."""

    name: str
    model_type: str
    pooling: str
    opset: int
    engine: str
    right: float
    left: float | None


_PAGE = """# Backbones, poolings, projections

<!-- Written by the tests; change tests/backbone_table.py and run: {command} -->

This page is written by `{command}`.

## Backbones

Each row is a small model with random weights, norms and biases included, exported at every exit and two dims and
compared with a model that transformers built with that depth and ran without padding, in fp32 with eager attention.
Batches of 1 x 1, 1 x {longest}, 7 x 5 and 2 x 33 tokens with ragged padding; the figure is the largest difference of
any component of any vector.

| backbone | `model_type` | pooling | {heads} | left padding | engines |
|---|---|---|{rules}---:|---|
{rows}

- Left padding: the largest difference over both opsets. "-": positions are counted from the first column there, and
  PyTorch itself gives other vectors under left padding. The runtime pads on the right, whatever the tokenizer's file
  says.
- ERNIE and Mistral stand in no table of the package. The general rule carries them, as it does other architectures of
  transformers with an ordinary list of blocks: positions, masks and the final norm are found in the model's structure,
  and the gate of every export says whether that was right. It was not for small models of ConvBERT and MobileBERT.
- DeBERTa computes attention as transformers spells it out; all others as one `Attention` node a block at opset 23.
- A model that takes more than 1024 tokens is verified up to 1024. `--max-seq-length` exports it for shorter texts.

Refused, with the reason: encoder-decoders of which transformers has no encoder alone, models of several parts (text
and image), model code of the checkpoint's own, adapters that were not merged, ALBERT with several groups of layers,
and poolings that leave a prompt's tokens out (`include_prompt` false), because the graph does not see where a prompt
ends.

## Opsets

| opset | least ONNX Runtime | attention |
|---|---|---|
| 23 (default) | {runtime_23} | the standard `Attention` operator |
| 18 (`--opset 18`) | {runtime_18} | plain matrix products |

ONNX Runtime 1.20.1 loads graphs of opset 18 too, from their files; the runtime of ese-deploy hands over checked bytes,
which need the release above. Measured with all-MiniLM-L6-v2 and small models of DeBERTa-v3, Gemma 3, ModernBERT, MPNet,
Qwen3 and T5.

## Poolings

{poolings}, and several of them joined, as in `cls+mean`. Each is compared with sentence-transformers' own under padding
on either side. Dense modules after the pooling are part of the graph, and the width is theirs; through an exit that
was not trained their outcome is likely poor, and the export says so.

## Projection `pca`

`--projection pca --calibration FILE` rotates each exit's vectors onto their principal components before a target keeps
the first ones. The covariance about the mean is summed in float64 over the texts of FILE (`.txt`, `.jsonl`), and
decomposed exactly. FILE holds at least twice as many texts as the vector has dimensions. The matrices stand in
`projection.safetensors` for `verify`, and in the graphs. Vectors of different exits, or of different files, may not be
compared, and their `space` says so.

The mean is not subtracted from a vector. all-MiniLM-L6-v2, calibrated on 6000 texts, texts cut at 160 tokens; STS-B
test (Spearman x 100) and SciFact test (nDCG@10 x 100):

| exit | dim | prefix | pca, mean kept | pca, mean subtracted |
|---|---:|---:|---:|---:|
| 1 (not trained) | 64 | 41.5 / 11.5 | 49.9 / 12.1 | 45.5 / 11.0 |
| 1 (not trained) | 128 | 49.3 / 18.9 | 55.2 / 25.2 | 51.9 / 20.9 |
| 3 (not trained) | 64 | 39.6 / 9.5 | 53.2 / 12.3 | 49.3 / 11.5 |
| 3 (not trained) | 128 | 45.0 / 12.8 | 56.7 / 18.6 | 53.7 / 17.2 |
| 5 (not trained) | 64 | 63.6 / 15.9 | 63.8 / 13.1 | 67.3 / 17.6 |
| 5 (not trained) | 128 | 63.7 / 21.5 | 67.0 / 21.9 | 70.5 / 26.8 |
| 6 | 32 | 76.7 / 34.9 | 72.7 / 36.8 | 72.7 / 36.8 |
| 6 | 64 | 79.2 / 49.7 | 78.4 / 51.5 | 78.2 / 51.7 |
| 6 | 128 | 80.7 / 58.4 | 81.1 / 58.8 | 80.9 / 58.9 |
| 6 | 256 | 81.9 / 62.4 | 82.1 / 62.7 | 81.9 / 62.5 |
| 6 | 384 | 82.0 / 62.9 | 82.0 / 62.9 | 81.9 / 62.5 |

Kept, the full width is a rotation and ranks exactly as the model does; subtracted, it does not, and at the trained exit
nothing is gained. Calibrated on 384, 768, 1536 and 6000 texts (mean subtracted), 6x64 gave 78.8 / 50.1, 78.5 / 51.3,
78.5 / 51.6 and 78.2 / 51.7.
"""


def page(rows: Sequence[BackboneRow], longest: int) -> str:
    """Render the page.

    Args:
        rows: one for each backbone and opset.
        longest: tokens of the longest batch that was compared.
    """
    opsets = sorted({row.opset for row in rows}, reverse=True)
    by_name: dict[str, dict[int, BackboneRow]] = {}
    for row in rows:
        by_name.setdefault(row.name, {})[row.opset] = row
    return _PAGE.format(
        command=COMMAND,
        longest=longest,
        heads=" | ".join(f"opset {opset}" for opset in opsets),
        rules="---:|" * len(opsets),
        rows="\n".join(_line(found, opsets) for found in by_name.values()),
        poolings=", ".join(f"`{name}`" for name in POOLINGS),
        runtime_23=MINIMUM_ONNXRUNTIME[23],
        runtime_18=MINIMUM_ONNXRUNTIME[18],
    )


def _line(found: dict[int, BackboneRow], opsets: Sequence[int]) -> str:
    row = next(iter(found.values()))
    differences = " | ".join(f"{found[opset].right:.1e}" if opset in found else "-" for opset in opsets)
    lefts = [item.left for item in found.values() if item.left is not None]
    left = f"{max(lefts):.1e}" if lefts else "-"
    engines = ", ".join(sorted({item.engine for item in found.values()}))
    return f"| {row.name} | `{row.model_type}` | {row.pooling} | {differences} | {left} | {engines} |"
