"""Step d: BERT-large and the decoder."""

from itertools import product

from benchmarks.gpu.contenders import OURS, Case, Loader, time_case
from benchmarks.gpu.step import Step, run


def measure_large(step: Step) -> None:
    """Measure both models at full depth and a quarter of it."""
    loader = Loader(step)
    dtype = "fp16" if step.device == "cuda" else "fp32"
    batches, length = ((2,), 8) if step.tiny else ((128, 32), 128)
    for batch, what, name in product(batches, ("tokens", "texts"), ("bert-large", "decoder-0.6b")):
        for depth, contender in product(reversed(step.shapes[name].ends), (OURS, "sdpa")):
            if step.late:
                return
            time_case(step, loader, Case(what, contender, name, depth, dtype, batch, length))


if __name__ == "__main__":
    run("large", measure_large)
