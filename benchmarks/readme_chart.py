"""Draw the README's chart, quality against latency, from recorded results: python -m benchmarks.readme_chart.

Quality comes from ``quality_minilm.json`` (similarity of the checkpoint "espresso, longest"), latency from
``bench_minilm.json``. Both are of all-MiniLM-L6-v2; the latency is that of the published weights at the same depth.
"""

import json
import statistics
from pathlib import Path
from typing import Any

__all__ = ["DIMS", "baseline_latencies", "latencies", "main", "similarities"]

ROOT = Path(__file__).parents[1]
TRAINED, PUBLISHED = "espresso, longest", "untouched"
DEPTHS, DIMS = range(1, 7), (64, 128, 384)
BASELINES = ("sentence-transformers", "optimum", "fastembed")
_STS = "sts_spearman@"


def similarities(row: str) -> dict[str, float]:
    """Spearman x 100, the mean of the STS test sets, for each ``DEPTHxDIM``."""
    content = _read("quality_minilm.json")
    runs = next(item["runs"] for item in content["rows"] if item["row"]["name"] == row)
    test: dict[str, dict[str, float]] = next(run["test"] for run in runs if run.get("test"))
    sets = [values for name, values in test.items() if name.startswith(_STS)]
    return {
        f"{depth}x{dim}": 100 * statistics.fmean(values[f"{depth}x{dim}"] for values in sets)
        for depth in DEPTHS
        for dim in DIMS
    }


def latencies() -> dict[int, float]:
    """Median milliseconds for one query at each depth: fp32, ONNX Runtime, two threads."""
    rows = [row for row in _latency_rows() if row["who"] == "ese-deploy" and row["engine"] == "onnxruntime"]
    return {int(row["target"].partition("x")[0]): _ms(row) for row in rows if row["dtype"] == "fp32"}


def baseline_latencies() -> dict[str, float]:
    """Median milliseconds for one query through the full model, fp32, for each baseline."""
    rows = [row for row in _latency_rows() if row["dtype"] == "fp32" and row["who"] in BASELINES]
    return {row["who"]: _ms(row) for row in rows}


def main() -> None:
    """Write ``docs/images/quality_latency.png``."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2), dpi=120)
    trained, ours = similarities(TRAINED), latencies()
    for dim, marker in zip(DIMS, "os^", strict=True):
        values = [trained[f"{depth}x{dim}"] for depth in DEPTHS]
        axes.plot([ours[depth] for depth in DEPTHS], values, marker=marker, label=f"ese-deploy, {dim} dimensions")
    full = similarities(PUBLISHED)["6x384"]
    for place, (name, latency) in enumerate(sorted(baseline_latencies().items())):
        axes.plot(latency, full, "D", color="0.4")
        offset = (4, -13 if place % 2 else 7)  # neighbours in turn above and below
        axes.annotate(name, (latency, full), xytext=offset, textcoords="offset points", ha="center", fontsize=8)
    for depth in DEPTHS:
        axes.annotate(
            f"depth {depth}",
            (ours[depth], trained[f"{depth}x384"]),
            xytext=(-6, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    axes.set(
        xlabel="latency of one query, median, in ms (fp32, 2 threads)",
        ylabel="similarity, mean of five STS sets\n(Spearman × 100)",
        title="all-MiniLM-L6-v2: one checkpoint, every depth and prefix",
    )
    axes.set_xscale("log", base=2)
    axes.set(xlim=(0.45, 10), ylim=(73, 81.5))
    axes.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/images/quality_latency.png")


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "benchmarks/results" / name).read_text("utf-8"))
    return content


def _latency_rows() -> list[dict[str, Any]]:
    groups = _read("bench_minilm.json")["groups"]
    return next(
        group["rows"]
        for group in groups
        if (group["kind"], group["study"], group["length"], group["threads"]) == ("latency", "depth", "query", 2)
    )


def _ms(row: dict[str, Any]) -> float:
    return 1000 * float(row["percentiles"]["p50"])


if __name__ == "__main__":
    main()
