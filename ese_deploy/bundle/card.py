"""The model card: ``README.md`` of a bundle."""

from collections.abc import Sequence

import msgspec

from ese_deploy.bundle.manifest import Manifest, Quality, TargetEntry
from ese_deploy.bundle.metrics import AGREEMENT, RETRIEVAL_METRICS, STS_METRICS

__all__ = ["CARD_FILE", "model_card"]

CARD_FILE = "README.md"

_CARD = """---
library_name: ese-deploy
pipeline_tag: sentence-similarity
tags: [sentence-embeddings, onnx, elastic-depth, matryoshka]
---
# {model}, in {count} sizes

Made by ese-deploy {version} of `{model}`{revision}: a {architecture} of {depth} blocks and {width} dimensions,
{pooling} pooling, at most {length} tokens. Each graph takes token ids and a mask and returns vectors of norm 1;
all graphs of a dtype share one weights file.

| target | file | dims | reads weights | max difference to PyTorch | agreement with the full model | exit trained |
|---|---|---:|---:|---:|---:|---|
{rows}

Agreement is Spearman's rank correlation between all pairwise cosines of {texts} texts under the target and under
the full PyTorch model: 1.000 means that it ranks pairs as the full model does. An exit that was not trained
computes what it says, and is worth little: look at its agreement.
{emulated}
{quality}Vectors may be compared only within one space: {spaces}.

## Use

```python
from ese_deploy import Encoder

encoder = Encoder.open("{name}", target="{target}")
vectors = encoder.encode(["A cat sat on the mat.", "Trains leave every hour."])
```

```
ese-deploy embed {name} texts.txt --target {target} --out vectors.npy
```
{prompts}
"""


_EMULATED = """
Figures marked (emulated) were computed on a CPU in fp32, each result rounded to the target's dtype; the engines
that compute in it are not verified unless `manifest.json` says so. `ese-deploy verify` does that on a machine with one.
"""


def model_card(manifest: Manifest, name: str) -> str:
    """Write the card.

    Args:
        manifest: what is known of the bundle.
        name: the bundle's folder name, for the examples.
    """
    targets = manifest.targets
    texts = {quality.n for entry in targets for quality in entry.quality if quality.metric == AGREEMENT}
    spaces = sorted({entry.space for entry in targets})
    default = max(targets, key=lambda e: (e.dtype == "fp32", e.depth, e.dim))
    revision = f" at `{manifest.source.revision}`" if manifest.source.revision else ""
    quoted = {name: msgspec.json.encode(text).decode() for name, text in manifest.prompts.items() if text}
    prompts = "".join(f"- `{name}`: {text}\n" for name, text in quoted.items())
    return _CARD.format(
        model=manifest.source.model,
        count=len(targets),
        version=manifest.tool_versions["ese-deploy"],
        revision=revision,
        architecture=manifest.architecture,
        depth=manifest.depth,
        width=manifest.width,
        pooling=manifest.pooling,
        length=manifest.max_seq_length,
        rows="\n".join(_row(entry) for entry in targets),
        texts=max(texts, default=0),
        emulated=_EMULATED if any(parity.emulated for entry in targets for parity in entry.parity) else "",
        quality=_quality_table(targets),
        spaces=", ".join(f"`{space}`" for space in spaces),
        name=name,
        target=default.target,
        prompts=f"\n## Prompts\n\n{prompts}" if prompts else "",
    )


def _quality_table(targets: Sequence[TargetEntry]) -> str:
    """The main figures on labelled data, with their shares of the full model."""
    main = (STS_METRICS[0], RETRIEVAL_METRICS[0])
    figures = [figure for entry in targets for figure in entry.quality if figure.metric in main]
    names = list(dict.fromkeys((figure.metric, figure.data) for figure in figures))
    if not names:
        return ""
    lines = [
        "Figures x 100 on labelled data, in brackets the share of the full model:\n",
        f"| target |{''.join(f' {metric} {data} |' for metric, data in names)}",
        f"|---|{'---:|' * len(names)}",
    ]
    for entry in targets:
        found = {(figure.metric, figure.data): figure for figure in entry.quality}
        cells = [_share(found.get(name)) for name in names]
        lines.append(f"| {entry.target} |{''.join(f' {cell} |' for cell in cells)}")
    return "\n".join(lines) + "\n\n"


def _share(figure: Quality | None) -> str:
    return f"{figure.value * 100:.2f} ({figure.share_of_full:.1%})" if figure else ""


def _row(entry: TargetEntry) -> str:
    difference = entry.largest_difference
    values = [quality.value for quality in entry.quality if quality.metric == AGREEMENT]
    value = f"{values[0]:.3f}" if values else ""
    trained = "yes" if entry.trained else "no"
    megabytes = entry.weight_bytes / 1e6
    return (
        f"| {entry.target} | `{entry.file}` | {entry.dim} | {megabytes:.1f} MB | {difference} | {value} | {trained} |"
    )
