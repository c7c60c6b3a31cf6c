"""The HTTP server on a GPU; skipped, because the kit does not carry its packages."""

from benchmarks.gpu.step import Skip, Step, run


def measure_server(step: Step) -> None:
    """Say that there is nothing to measure yet."""
    raise Skip("the kit does not carry the packages of the extra serve")


if __name__ == "__main__":
    run("server", measure_server)
