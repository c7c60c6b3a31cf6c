"""Whether ``choose`` says that the machine is busy, and does not keep what it measured then."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["busy_runs"]

_SPIN = "while True: pass"


def busy_runs(bundle: Path, runs: int, spinning: int = 1) -> Iterator[tuple[str, bool]]:
    """Choose by latency while other processes keep cores busy, each time in a new process with an empty cache.

    Args:
        bundle: its folder.
        runs: how often.
        spinning: processes that keep a core busy each.

    Yields:
        The line that says so, or an empty string; and whether the figures were stored.
    """
    command = [sys.executable, "-m", "ese_deploy", "choose", str(bundle), "--max-latency", "1000s", "--allow-untrained"]
    with _spinning(spinning):
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as cache:
                environment = {**os.environ, "ESE_DEPLOY_CACHE": cache}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                said = next((line for line in done.stdout.splitlines() if line.startswith("Busy:")), "")
                stored = [path.read_text("utf-8") for path in Path(cache).rglob("*.json")]
                yield said, any('"latency"' in text for text in stored)


@contextmanager
def _spinning(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
