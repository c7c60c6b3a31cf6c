"""Step c: texts per second of BERT-base and MiniLM beside PyTorch, the most important cases first."""

from collections.abc import Iterator
from itertools import product

from benchmarks.gpu.contenders import OURS, OURS_GRAPHS, Case, Loader, time_case
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.step import Step, run
from benchmarks.gpu.texts import MIXED


def measure_throughput(step: Step) -> None:
    """Measure cases until the time is over."""
    loader = Loader(step)
    for case in dict.fromkeys(_cases(step)):
        if step.late:
            return
        time_case(step, loader, case)


def _cases(step: Step) -> Iterator[Case]:
    base, mini = step.shapes["bert-base"], step.shapes["minilm-l6"]
    dtype = "fp16" if step.device == "cuda" else "fp32"
    if step.tiny:
        yield from _grid(base, dtype, ("ese-deploy", "sdpa"), "texts", (2,), (8, MIXED))
        yield from _grid(mini, dtype, ("ese-deploy", OURS_GRAPHS, "sdpa", "flash"), "tokens", (2,), (8,))
        return
    best = (OURS, "sdpa", "flash")
    # The goals: 1.3 times the best way in PyTorch, 60% of the peak, and depth 3 of 12 at 3.5 times the speed.
    yield from _grid(base, dtype, (*best, "eager"), "texts", (128,), (128,))
    yield from _grid(base, dtype, (OURS, OURS_GRAPHS, "sdpa"), "tokens", (128,), (128,))
    yield from _grid(mini, dtype, best, "texts", (128,), (128,))
    yield from _grid(base, "bf16", (OURS, "sdpa"), "texts", (128,), (128,))
    yield from _grid(base, dtype, best, "texts", (128, 512, 32, 1), (32, MIXED))
    yield from _grid(base, dtype, (OURS, OURS_GRAPHS, "sdpa"), "tokens", (1, 32, 512, 128), (128, 32))
    yield from _grid(mini, dtype, best, "texts", (128, 512, 32, 1), (32, MIXED, 128))
    yield from _grid(mini, dtype, (OURS, OURS_GRAPHS, "sdpa"), "tokens", (128, 1, 32, 512), (128, 32))
    yield from _grid(base, dtype, best, "texts", (512, 32, 1), (128,))


def _grid(
    shape: Shape, dtype: str, contenders: tuple[str, ...], what: str, batches: tuple[int, ...], lengths: tuple[int, ...]
) -> Iterator[Case]:
    """All combinations, the full depth and a quarter of it side by side."""
    for length, batch, depth, contender in product(lengths, batches, reversed(shape.ends), contenders):
        yield Case(what, contender, shape.name, depth, dtype, batch, length)


if __name__ == "__main__":
    run("throughput", measure_throughput)
