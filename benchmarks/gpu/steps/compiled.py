"""Step c, continued: PyTorch's compiler on the main case. It compiles for long, so it has a limit of its own."""

from benchmarks.gpu.contenders import Case, Loader, time_case
from benchmarks.gpu.step import Step, run


def measure_compiled(step: Step) -> None:
    """Measure torch.compile at BERT-base, text to vector and tokens to vector."""
    loader, shape = Loader(step), step.shapes["bert-base"]
    dtype = "fp16" if step.device == "cuda" else "fp32"
    batch, length = (2, 8) if step.tiny else (128, 128)
    for depth in reversed(shape.ends):
        for what in ("tokens", "texts"):
            if step.late or (step.tiny and (what, depth) != ("tokens", shape.layers)):
                return
            time_case(step, loader, Case(what, "compiled", shape.name, depth, dtype, batch, length))


if __name__ == "__main__":
    run("compiled", measure_compiled)
