"""What loading and running a target adds to a process, measured in a process of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path

from ese_deploy.bundle import Bundle
from ese_deploy.errors import EngineError
from ese_deploy.target import Target

__all__ = ["measure_memory", "private_bytes"]

_TIMEOUT = 600


def measure_memory(bundle: Bundle, target: Target, engine: str, threads: int, text: str) -> dict[str, float]:
    """Load a target in a new process and embed a text.

    Returns:
        ``bytes``: growth of anonymous memory (RssAnon) over the interpreter with everything imported; pages of the
        weights file that are only mapped do not count. ``load_seconds``: opening the encoder. On a system that does
        not report RssAnon ``bytes`` is missing.

    Raises:
        EngineError: the process failed.
    """
    arguments = [str(bundle.path.resolve()), str(target), engine, str(threads), text]
    command = [sys.executable, "-m", "ese_deploy.bench.memory", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"measuring the memory of {target} failed: {reason}")
    values: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return values


def private_bytes() -> int | None:
    """Anonymous memory of this process that is in RAM; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def _child(bundle: str, target: str, engine: str, threads: str, text: str) -> dict[str, float]:
    from ese_deploy.bundle import open_bundle
    from ese_deploy.engines import load_engine
    from ese_deploy.runtime import Encoder

    loaded = load_engine(engine)
    opened = open_bundle(bundle)
    before = private_bytes()
    start = time.perf_counter()
    encoder = Encoder.open(opened, target, engine=loaded, threads=int(threads))
    values = {"load_seconds": time.perf_counter() - start}
    encoder.encode(text)
    after = private_bytes()
    if before is not None and after is not None:
        values["bytes"] = float(max(0, after - before))
    return values


if __name__ == "__main__":
    print(json.dumps(_child(*sys.argv[1:])))
