"""Training on the GPU in bf16: losses of the first steps beside those of the CPU in fp32."""

from benchmarks.gpu.step import Skip, Step, run


def measure_training(step: Step) -> None:
    """Train on both devices."""
    raise Skip("todo")


if __name__ == "__main__":
    run("training", measure_training)
