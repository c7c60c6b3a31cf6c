"""The HTTP server on a GPU; skipped as long as the package has none."""

import importlib.util

from benchmarks.gpu.step import Skip, Step, run


def measure_server(step: Step) -> None:
    """Say that there is nothing to measure yet."""
    if importlib.util.find_spec("ese_deploy.server") is None:
        raise Skip("ese-deploy has no server")
    raise Skip("the kit does not measure the server")


if __name__ == "__main__":
    run("server", measure_server)
