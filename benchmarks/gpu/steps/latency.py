"""Step e: milliseconds from one query to its vector, by depth."""

from benchmarks.gpu.contenders import OURS, Case, Loader
from benchmarks.gpu.models import model_folder
from benchmarks.gpu.step import Step, run
from benchmarks.gpu.texts import words
from ese_deploy.bench.timing import time_alone

_LENGTH = 12
_LEAST = 200


def measure_latency(step: Step) -> None:
    """Time one text at a time, at every exported depth."""
    loader, dtype = Loader(step), "fp16" if step.device == "cuda" else "fp32"
    for name in ("bert-base", "minilm-l6", "decoder-0.6b", "bert-large"):
        for depth in step.shapes[name].depths:
            for contender in (OURS, "sdpa"):
                if step.late:
                    return
                with step.case(case="latency", model=name, depth=depth, dtype=dtype, contender=contender) as found:
                    encode = loader.encode(Case("texts", contender, name, depth, dtype, 1, _LENGTH))
                    (query,) = words(model_folder(step.work, name), _LENGTH, 1)
                    timing = time_alone(lambda: encode(query), step.case_seconds, 5 if step.tiny else _LEAST)  # noqa: B023
                    for percentile in ("p50", "p99"):
                        found[f"{percentile}_ms"] = round(1000 * timing.percentiles[percentile], 4)
                    found["runs"] = timing.calls


if __name__ == "__main__":
    run("latency", measure_latency)
