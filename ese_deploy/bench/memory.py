"""What loading and running a target adds to a process, measured in a process of its own."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import EngineError
from ese_deploy.target import Target

__all__ = ["cold_start", "measure_memory", "private_bytes"]

_TIMEOUT = 600
_BATCH = 32
# The text comes by standard input: an argument is at most 128 KiB on Linux, and holds no NUL.
_COLD = """
import sys
from ese_deploy import Encoder
bundle, target, engine, threads = sys.argv[1:]
text = sys.stdin.buffer.read().decode()
Encoder.open(bundle, target, engine=engine, threads=int(threads)).encode(text)
print("ready", flush=True)
"""


def measure_memory(bundle: Bundle, target: Target, engine: str, threads: int, text: str) -> dict[str, float]:
    """Load a target in a new process and embed a text.

    Returns:
        ``bytes``: growth of anonymous memory (RssAnon) over the interpreter with everything imported; pages of the
        weights file that are only mapped do not count. ``peak_bytes``: its highest growth while a batch of 32 such
        texts is embedded. ``load_seconds``: opening the encoder. On a system that does not report RssAnon ``bytes``
        and ``peak_bytes`` are missing.

    Raises:
        EngineError: the process failed.
    """
    arguments = [str(bundle.path.resolve()), str(target), engine, str(threads)]
    command = [sys.executable, "-m", "ese_deploy.bench.memory", *arguments]
    try:
        result = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError(f"measuring the memory of {target} took more than {_TIMEOUT} s and was ended") from None
    if result.returncode != 0:
        reason = (result.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"measuring the memory of {target} failed: {reason}")
    values: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return values


def cold_start(bundle: Bundle, target: Target, engine: str, threads: int, text: str) -> float:
    """Seconds from starting a new process to its first vector.

    Raises:
        EngineError: the process failed.
    """
    arguments = [str(bundle.path.resolve()), str(target), engine, str(threads)]
    # The results say how many texts were cut; the process need not.
    command = [sys.executable, "-W", "ignore", "-c", _COLD, *arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError), process.stdin as standard_input:
            standard_input.write(text.encode())
        ready = process.stdout.readline().strip()
        seconds = time.perf_counter() - start
    if ready != b"ready":
        raise EngineError(f"starting {target} in a new process failed")
    return seconds


def private_bytes() -> int | None:
    """Anonymous memory of this process that is in RAM; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def _child(text: str, bundle: str, target: str, engine: str, threads: str) -> dict[str, float]:
    from ese_deploy.bundle.reader import open_bundle
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
    with _peak() as peak:
        encoder.encode([text] * _BATCH)
    if before is not None and after is not None:
        values["bytes"] = float(max(0, after - before))
        values["peak_bytes"] = float(max(0, *peak, after) - before)
    return values


@contextmanager
def _peak() -> Iterator[list[int]]:
    """A list that holds the highest memory seen, once the block has ended."""
    highest = [private_bytes() or 0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], private_bytes() or 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield highest
    done.set()
    watcher.join()
    highest[0] = max(highest[0], private_bytes() or 0)


if __name__ == "__main__":
    print(json.dumps(_child(sys.stdin.buffer.read().decode(), *sys.argv[1:])))
