"""Step f: memory of the GPU by depth, after loading and after a batch."""

import gc

import torch

from benchmarks.gpu.models import require_model
from benchmarks.gpu.ours import token_session
from benchmarks.gpu.shapes import Shape
from benchmarks.gpu.step import Skip, Step, run
from benchmarks.gpu.texts import token_batch


def measure_memory(step: Step) -> None:
    """Measure what one session takes; one at a time, after a session that brings in the libraries."""
    if step.device == "cpu" and not step.tiny:
        raise Skip("measures the memory of a GPU")
    warm = step.shapes["minilm-l6"]
    session = token_session(require_model(step, warm.name), _target(warm, warm.depths[0], step), step.device)
    session.run(token_batch(1, 8, session.inputs))
    for shape in step.shapes.values():
        for depth in shape.depths:
            if step.late:
                return
            _measure_exit(step, shape, depth)


def _measure_exit(step: Step, shape: Shape, depth: int) -> None:
    batch, length = (2, 8) if step.tiny else (32, 128)
    with step.case(case="memory", model=shape.name, depth=depth, batch=batch, length=length) as found:
        bundle = require_model(step, shape.name)
        gc.collect()
        before = _used(step)
        session = token_session(bundle, _target(shape, depth, step), step.device)
        found["loaded_mib"] = round((_used(step) - before) / 2**20, 1)
        session.run(token_batch(batch, length, session.inputs))
        found["after_batch_mib"] = round((_used(step) - before) / 2**20, 1)
        if step.device == "cpu":
            found["note"] = "nothing was measured: there is no GPU"


def _target(shape: Shape, depth: int, step: Step) -> str:
    return f"{depth}x{shape.hidden}" + (":fp16" if step.device == "cuda" else "")


def _used(step: Step) -> int:
    if step.device == "cpu":
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


if __name__ == "__main__":
    run("memory", measure_memory)
