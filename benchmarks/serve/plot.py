"""Plots of latency against load, and of throughput."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.serve.compare import Comparison
from ese_deploy.report.files import ServeFile

__all__ = ["plot", "plot_throughput"]


def plot(results: Mapping[str, ServeFile], out: Path) -> None:
    """Plot p50 and p99 against answered requests a second.

    Args:
        results: of :func:`benchmarks.serve.load.measure`, by the name of the server.
        out: a .png or .svg file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
    for name, found in results.items():
        steps = [one for one in found.steps if one.p50_ms]
        rates = [one.rate for one in steps]
        axes[0].plot(rates, [one.p50_ms for one in steps], marker="o", label=name)
        axes[1].plot(rates, [one.p99_ms for one in steps], marker="o", label=name)
    for axis, title in zip(axes, ("median", "99th percentile"), strict=True):
        axis.set(title=title, xlabel="requests per second, scheduled", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds from the scheduled start")
    axes[0].legend()
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def plot_throughput(found: Comparison, out: Path) -> None:
    """Plot texts per second of each contender, by wall time and by CPU time of the server.

    Args:
        found: a comparison.
        out: a .png or .svg file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, count in zip(axes, (32, 1), strict=True):
        lines = [one for one in found.throughput if one.texts == count]
        places = range(len(lines))
        axis.barh([place - 0.2 for place in places], [one.texts_per_second for one in lines], 0.4, label="wall time")
        axis.barh([place + 0.2 for place in places], [one.texts_per_cpu_second for one in lines], 0.4, label="CPU time")
        axis.set_yticks(list(places), [one.name for one in lines])
        axis.set(title=f"texts in a request: {count}", xlabel="texts per second", xscale="log")
        axis.grid(alpha=0.3, axis="x")
    axes[0].invert_yaxis()
    axes[0].legend()
    figure.savefig(out, dpi=150)
    pyplot.close(figure)
