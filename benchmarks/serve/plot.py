"""Plots of latency against load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["plot"]


def plot(results: Mapping[str, Path], out: Path) -> None:
    """Plot p50 and p99 against answered requests a second.

    Args:
        results: files of :func:`benchmarks.serve.load.measure`, by the name of the server.
        out: a .png or .svg file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for name, path in results.items():
        steps: list[dict[str, Any]] = [one for one in json.loads(path.read_text())["steps"] if one["p50_ms"]]
        rates = [one["rate"] for one in steps]
        for axis, key in zip(axes, ("p50_ms", "p99_ms"), strict=True):
            axis.plot(rates, [one[key] for one in steps], marker="o", label=name)
    for axis, title in zip(axes, ("median", "99th percentile"), strict=True):
        axis.set(title=title, xlabel="requests per second, scheduled", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds from the scheduled start")
    axes[0].legend()
    figure.savefig(out, dpi=150)
    pyplot.close(figure)
