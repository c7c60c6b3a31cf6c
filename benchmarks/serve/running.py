"""A server in a process of its own, for benchmarks that start one."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["OurServer", "our_server"]


@dataclass
class OurServer:
    """``ese-deploy serve``.

    Attributes:
        process: the process.
        url: its address; empty until it listens.
        alarms: its last log records above the level of information.
    """

    process: "subprocess.Popen[str]"
    url: str = ""
    alarms: "deque[str]" = field(default_factory=lambda: deque(maxlen=50))

    def read(self) -> None:
        """Read its log until it ends."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if '"message": "request"' in line:
                continue
            record = json.loads(line) if line.startswith("{") else {"level": "error", "message": line.strip()}
            if record["message"] == "listening":
                self.url = record["address"]
            if record["level"] != "info":
                self.alarms.append(line.strip())

    def rss(self) -> int:
        """Resident memory of the process and its children, in bytes."""
        total = 0
        for one in (psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


@contextmanager
def our_server(bundle: Path, name: str, options: Sequence[str], seconds: float = 120.0) -> Iterator[OurServer]:
    """Start ``ese-deploy serve`` with the bundle under this model name, and end it afterwards.

    Raises:
        RuntimeError: it does not listen within ``seconds``.
    """
    words = [sys.executable, "-m", "ese_deploy", "serve", f"{name}={bundle}", "--port", "0", *options]
    found = OurServer(subprocess.Popen(words, stderr=subprocess.PIPE, text=True))
    reader = threading.Thread(target=found.read, daemon=True)
    reader.start()
    try:
        end = time.monotonic() + seconds
        while not found.url:
            if found.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server does not listen: {list(found.alarms)}")
            time.sleep(0.05)
        yield found
    finally:
        found.process.send_signal(signal.SIGTERM)
        try:
            found.process.wait(60)
        except subprocess.TimeoutExpired:
            found.process.kill()
            found.process.wait()
        reader.join()
