"""Step g: TensorRT, native and as a provider of ONNX Runtime, where it is installed."""

import importlib.util
from itertools import product

from benchmarks.gpu.step import Skip, Step, run

_ENGINES = ("tensorrt", "onnxruntime-tensorrt")


def measure_tensorrt(step: Step) -> None:
    """Build and time BERT-base in fp16."""
    if importlib.util.find_spec("tensorrt") is None:
        raise Skip("tensorrt is not installed")
    if step.device == "cpu":
        raise Skip("TensorRT needs a GPU")
    from benchmarks.gpu.models import require_model
    from benchmarks.gpu.ours import token_session
    from benchmarks.gpu.texts import token_batch
    from ese_deploy.bench.timing import time_alone

    shape = step.shapes["bert-base"]
    for depth, name in product(reversed(shape.ends), _ENGINES):
        if step.late:
            return
        fields = {"model": shape.name, "depth": depth, "dtype": "fp16", "batch": 128, "length": 128}
        with step.case(case="speed", what="tokens", contender=name, **fields) as found:
            bundle = require_model(step, shape.name)
            session = token_session(bundle, f"{depth}x{shape.hidden}:fp16", step.device, name)
            inputs = token_batch(128, 128, session.inputs)
            timing = time_alone(lambda: session.run(inputs), step.case_seconds, least=3)  # noqa: B023
            found |= {"runs": timing.calls, "texts_per_second": round(128 / timing.median, 2)}


if __name__ == "__main__":
    run("tensorrt", measure_tensorrt)
