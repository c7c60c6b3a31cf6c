"""The model card, ``README.md`` of a bundle."""

from collections.abc import Sequence

import msgspec

from ese_deploy.bundle.manifest import Manifest, Quality, TargetEntry
from ese_deploy.bundle.metrics import AGREEMENT, RETRIEVAL_METRICS, STS_METRICS
from ese_deploy.bundle.spaces import describe_spaces

__all__ = ["CARD_FILE", "model_card"]

CARD_FILE = "README.md"

_CARD = """---
library_name: ese-deploy
pipeline_tag: sentence-similarity
tags: [sentence-embeddings, onnx, elastic-depth, matryoshka]
---
# {model}, in {count} sizes

Exported by ese-deploy {version} from `{model}`{revision}: {architecture} with {depth} layers and {width} dimensions,
{pooling} pooling, at most {length} tokens. Each graph takes token ids and a mask and returns vectors of norm 1.
All graphs of a dtype share one weights file.

| target | file | dims | weights | max difference from PyTorch | agreement with the full model | exit trained |
|---|---|---:|---:|---:|---:|---|
{rows}

Agreement is the Spearman rank correlation between all pairwise cosines of {texts} texts with the target and with the
full PyTorch model. With 1.000 the target ranks pairs exactly as the full model does. The quality of an exit that was
not trained is low; its agreement shows how low.
{emulated}
{quality}{spaces}

## Use

```python
from ese_deploy import Encoder

encoder = Encoder.{opened}("{name}", target="{target}")
vectors = encoder.encode(["A cat sat on the mat.", "Trains leave every hour."])
```

```
ese-deploy embed {folder} texts.txt --target {target} --out vectors.npy
```
{prompts}
"""


_EMULATED = """
Figures marked (emulated) were computed in fp32 on a CPU, with each result rounded to the target's dtype. Run
`ese-deploy verify` on a machine with a GPU to verify the engines that compute in that dtype.
"""


def model_card(manifest: Manifest, name: str, *, on_hub: bool = False) -> str:
    """The text of the card.

    Args:
        manifest: the manifest of the bundle.
        name: the name of the bundle's folder, for the examples.
        on_hub: ``name`` is that of a repository on the Hugging Face hub.
    """
    targets = manifest.targets
    texts = {quality.n for entry in targets for quality in entry.quality if quality.metric == AGREEMENT}
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
        spaces=" ".join(describe_spaces(manifest)),
        name=name,
        opened="from_pretrained" if on_hub else "open",
        folder=f"$(ese-deploy pull {name})" if on_hub else name,
        target=default.target,
        prompts=f"\n## Prompts\n\n{prompts}" if prompts else "",
    )


def _quality_table(targets: Sequence[TargetEntry]) -> str:
    """The main figures on labelled data, with their share of the full model's."""
    main = (STS_METRICS[0], RETRIEVAL_METRICS[0])
    figures = [figure for entry in targets for figure in entry.quality if figure.metric in main]
    names = list(dict.fromkeys((figure.metric, figure.data) for figure in figures))
    if not names:
        return ""
    lines = [
        "Figures x 100 on labelled data, with the share of the full model's figure in parentheses:\n",
        f"| target |{''.join(f' {metric} {data} |' for metric, data in names)}",
        f"|---|{'---:|' * len(names)}",
    ]
    for entry in targets:
        found = {(figure.metric, figure.data): figure for figure in entry.quality}
        cells = [_share(found.get(name)) for name in names]
        lines.append(f"| {entry.target} |{''.join(f' {cell} |' for cell in cells)}")
    return "\n".join(lines) + "\n\n"


def _share(figure: Quality | None) -> str:
    if figure is None:
        return ""
    share = f"{figure.share_of_full:.1%}" if figure.differs or figure.share_of_full == 1 else "no difference seen"
    return f"{figure.value * 100:.2f} ({share})"


def _row(entry: TargetEntry) -> str:
    difference = entry.largest_difference
    values = [quality.value for quality in entry.quality if quality.metric == AGREEMENT]
    value = f"{values[0]:.3f}" if values else ""
    trained = "yes" if entry.trained else "no"
    megabytes = entry.weight_bytes / 1e6
    return (
        f"| {entry.target} | `{entry.file}` | {entry.dim} | {megabytes:.1f} MB | {difference} | {value} | {trained} |"
    )
