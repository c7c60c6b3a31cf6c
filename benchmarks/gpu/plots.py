"""Plots of a run of the kit."""

from pathlib import Path
from typing import Any

from benchmarks.gpu.records import Record, cases

__all__ = ["draw"]

# One colour for each contender; ours first.
_COLOURS = {
    "ese-deploy": "#0b6e4f",
    "ese-deploy, CUDA graph": "#6bbf59",
    "sdpa": "#c0504d",
    "flash": "#e08e45",
    "compiled": "#7f6084",
    "eager": "#999999",
}
_LABELS = {
    "sdpa": "PyTorch, SDPA",
    "flash": "PyTorch, flash attention",
    "compiled": "PyTorch, torch.compile",
    "eager": "PyTorch, eager attention",
}


def draw(records: list[Record], out: Path) -> list[Path]:
    """Draw what was measured; a plot without data is left out.

    Returns:
        The files, in the order in which a reader wants them.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    plots = {"throughput": _throughput, "share": _shares, "latency": _latency, "memory": _memory}
    found = []
    for name, plot in plots.items():
        figure = plot(records)
        if figure is not None:
            path = out / f"{name}.png"
            figure.savefig(path, dpi=120, bbox_inches="tight")
            found.append(path)
    return found


def _axes(count: int, title: str) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.5, 4.2 * count), 3.8), layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", alpha=0.3)
        one.set_axisbelow(True)
    return figure, axes


def _speeds(records: list[Record], what: str) -> list[Record]:
    """Texts per second at the longest fixed length that was measured."""
    found = [
        one
        for one in records
        if one["kind"] == "case" and one.get("case") == "speed" and one["what"] == what and "texts_per_second" in one
    ]
    longest = max((one["length"] for one in found), default=0)
    return [one for one in found if one["length"] == longest]


def _throughput(records: list[Record]) -> Any:
    """Texts per second by depth, one panel for each model, at the batch that most cases have."""
    found = _speeds(records, "texts")
    if not found:
        return None
    models = list(dict.fromkeys(one["model"] for one in found))
    batch = max({one["batch"] for one in found}, key=[one["batch"] for one in found].count)
    found = [one for one in found if one["batch"] == batch and one["dtype"] != "bf16"]
    length = found[0]["length"]
    case = f"{length} tokens, batches of {batch}, {found[0]['dtype']}"
    figure, axes = _axes(len(models), f"Texts to vectors, PyTorch with sentence-transformers: {case}")
    for model, one in zip(models, axes, strict=True):
        _bars(one, [record for record in found if record["model"] == model], "texts_per_second")
        one.set_title(model, fontsize=10)
        one.set_xlabel("depth")
    axes[0].set_ylabel("texts per second")
    _legend(figure, axes)
    return figure


def _shares(records: list[Record]) -> Any:
    """Share of the matrix peak by batch, full depth."""
    found = [one for one in _speeds(records, "tokens") if "share_of_peak" in one and one["dtype"] != "bf16"]
    if not found:
        return None
    models = list(dict.fromkeys(one["model"] for one in found))
    figure, axes = _axes(len(models), f"Tokens to vectors: {found[0]['length']} tokens, share of the matrix peak")
    for model, one in zip(models, axes, strict=True):
        rows = [record for record in found if record["model"] == model]
        depth = max(record["depth"] for record in rows)
        _bars(one, [record for record in rows if record["depth"] == depth], "share_of_peak", by="batch", scale=100)
        one.set_title(f"{model}, {depth} layers", fontsize=10)
        one.set_xlabel("batch")
    axes[0].set_ylabel("% of the measured peak")
    _legend(figure, axes)
    return figure


def _latency(records: list[Record]) -> Any:
    found = [one for one in cases(records, "latency") if "p50_ms" in one]
    if not found:
        return None
    models = list(dict.fromkeys(one["model"] for one in found))
    figure, axes = _axes(len(models), "One query to its vector: median, and 99th percentile as a line above")
    for model, one in zip(models, axes, strict=True):
        rows = [record for record in found if record["model"] == model]
        _bars(one, rows, "p50_ms", upper="p99_ms")
        one.set_title(model, fontsize=10)
        one.set_xlabel("depth")
    axes[0].set_ylabel("milliseconds")
    _legend(figure, axes)
    return figure


def _memory(records: list[Record]) -> Any:
    found = [one for one in cases(records, "memory") if one.get("after_batch_mib")]
    if not found:
        return None
    models = list(dict.fromkeys(one["model"] for one in found))
    figure, (one,) = _axes(1, f"GPU memory of one session after a batch of {found[0]['batch']} x {found[0]['length']}")
    for model in models:
        rows = sorted((record["depth"], record["after_batch_mib"]) for record in found if record["model"] == model)
        one.plot(*zip(*rows, strict=True), marker="o", label=model)
    one.set_xlabel("depth")
    one.set_ylabel("MiB")
    one.set_ylim(bottom=0)
    one.legend(frameon=False, fontsize=8)
    return figure


def _bars(
    axes: Any, rows: list[Record], value: str, by: str = "depth", scale: float = 1.0, upper: str | None = None
) -> None:
    """Bars side by side for each contender."""
    groups = sorted({row[by] for row in rows})
    contenders = [name for name in _COLOURS if any(row["contender"] == name for row in rows)]
    width = 0.8 / max(1, len(contenders))
    for index, contender in enumerate(contenders):
        held = {row[by]: row for row in rows if row["contender"] == contender}
        shown = [group for group in groups if group in held]
        shift = (index - (len(contenders) - 1) / 2) * width
        places = [groups.index(group) + shift for group in shown]
        heights = [held[group][value] * scale for group in shown]
        reach = None
        if upper:
            tops = [held[group][upper] * scale for group in shown]
            reach = [[0.0] * len(tops), [top - height for top, height in zip(tops, heights, strict=True)]]
        label = _LABELS.get(contender, contender)
        axes.bar(places, heights, width * 0.92, yerr=reach, color=_COLOURS[contender], label=label, ecolor="#444444")
    axes.set_xticks(range(len(groups)), [str(group) for group in groups])


def _legend(figure: Any, axes: list[Any]) -> None:
    found = {label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found), frameon=False, fontsize=8)
