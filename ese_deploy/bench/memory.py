"""Memory and start-up time of a target, each measured in a new process."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import EngineError
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus

__all__ = ["MemoryUse", "cold_start", "measure_memory", "private_bytes"]

_TIMEOUT = 600
_BATCH = 32
_LONGEST = 512
# Nothing but the runtime is imported, so that the process is as large as a user's.
_SERVE = """
import json, sys
from ese_deploy import Encoder
bundle, target, engine, threads = sys.argv[1:]
texts = json.load(sys.stdin.buffer)
encoder = Encoder.open(bundle, target, engine=engine, threads=int(threads), log_truncated=False)
for one in texts[::4]:
    encoder.encode(one)
encoder.encode(texts)
with open("/proc/self/status") as file:
    fields = dict(line.split(":", 1) for line in file)
print(fields["VmHWM"].split()[0], flush=True)
"""
# The text is sent through standard input: an argument is limited to 128 KiB on Linux and contains no NUL.
_COLD = """
import sys
from ese_deploy import Encoder
bundle, target, engine, threads = sys.argv[1:]
text = sys.stdin.buffer.read().decode()
Encoder.open(bundle, target, engine=engine, threads=int(threads), log_truncated=False).encode(text)
print("ready", flush=True)
"""


class MemoryUse(msgspec.Struct, frozen=True):
    """Memory and loading time of a target in a new process.

    Attributes:
        load_seconds: opening the encoder.
        bytes: growth of anonymous memory (RssAnon) by loading and a first text, over the interpreter with everything
            imported. Pages of the weights file that are only mapped do not count. None where it is not reported.
        peak_bytes: highest growth while a batch of 32 such texts is embedded; None where it is not reported.
        process_peak_bytes: most memory in RAM (VmHWM) of another process that opens the target, and embeds a text of
            the longest length (at most 512 tokens) and a quarter of the sample corpus one by one, then all of it:
            interpreter, libraries, mapped weights and working memory. None where it is not reported.
    """

    load_seconds: float
    bytes: int | None = None
    peak_bytes: int | None = None
    process_peak_bytes: int | None = None


def measure_memory(bundle: Bundle, target: Target, engine: str, threads: int, text: str) -> MemoryUse:
    """Load a target in a new process and embed a text; then, in another, embed the sample corpus, singly and as a list.

    Raises:
        EngineError: the process failed.
    """
    arguments = [str(bundle.path.resolve()), str(target), engine, str(threads)]
    grown = _run(["-m", "ese_deploy.bench.memory", *arguments], text.encode(), target)
    use = msgspec.json.decode(grown, type=MemoryUse)
    if use.bytes is None:
        return use
    # Single texts and lists have a session each, and the longest text takes the most working memory.
    longest = min(_LONGEST, bundle.manifest.max_seq_length)
    texts = msgspec.json.encode([" ".join(["a"] * longest), *(item.text for item in sample_corpus())])
    return msgspec.structs.replace(use, process_peak_bytes=1024 * int(_run(["-c", _SERVE, *arguments], texts, target)))


def _run(arguments: list[str], standard_input: bytes, target: Target) -> bytes:
    """The last line that a new interpreter prints."""
    command = [sys.executable, *arguments]
    try:
        result = subprocess.run(command, input=standard_input, capture_output=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError(f"The memory measurement of {target} was stopped after {_TIMEOUT} s.") from None
    if result.returncode != 0:
        reason = (result.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"The memory measurement of {target} failed: {reason}")
    return result.stdout.splitlines()[-1]


def cold_start(bundle: Bundle, target: Target, engine: str, threads: int, text: str) -> float:
    """Seconds from starting a new process to its first vector.

    Raises:
        EngineError: the process failed.
    """
    arguments = [str(bundle.path.resolve()), str(target), engine, str(threads)]
    # Truncated texts are counted in the results.
    command = [sys.executable, "-W", "ignore", "-c", _COLD, *arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError), process.stdin as standard_input:
            standard_input.write(text.encode())
        ready = process.stdout.readline().strip()
        seconds = time.perf_counter() - start
    if ready != b"ready":
        raise EngineError(f"Starting {target} in a new process failed.")
    return seconds


def private_bytes() -> int | None:
    """Anonymous memory of this process that is in RAM; None where the system does not report it."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), None)


def _child(text: str, bundle: str, target: str, engine: str, threads: str) -> MemoryUse:
    from ese_deploy.bundle.reader import open_bundle
    from ese_deploy.engines import load_engine
    from ese_deploy.runtime import Encoder

    loaded = load_engine(engine)
    opened = open_bundle(bundle)
    before = private_bytes()
    start = time.perf_counter()
    encoder = Encoder.open(opened, target, engine=loaded, threads=int(threads), log_truncated=False)
    load_seconds = time.perf_counter() - start
    encoder.encode(text)
    after = private_bytes()
    with _peak() as peak:
        encoder.encode([text] * _BATCH)
    if before is None or after is None:
        return MemoryUse(load_seconds)
    return MemoryUse(load_seconds, max(0, after - before), max(0, *peak, after) - before)


@contextmanager
def _peak() -> Iterator[list[int]]:
    """A list with the highest memory seen, filled when the block ends."""
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
    print(msgspec.json.encode(_child(sys.stdin.buffer.read().decode(), *sys.argv[1:])).decode())
