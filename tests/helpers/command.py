"""``ese-deploy serve`` in a process of its own, and what it logs."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ese_deploy.bundle.reader import Bundle

__all__ = ["Command", "command", "post"]

ROOT = Path(__file__).parents[2]


@dataclass
class Command:
    process: "subprocess.Popen[str]"
    events: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("{"):
                self.events.append(json.loads(line))

    def wait_for(self, message: str, count: int = 1) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = [event for event in self.events if event["message"] == message]
            if len(found) >= count:
                return found[count - 1]
            time.sleep(0.02)
        raise AssertionError(f"no '{message}' in {self.lines}")

    @property
    def port(self) -> int:
        return int(self.wait_for("listening")["address"].rsplit(":", 1)[1])

    def embed(self, texts: list[str]) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        return post(connection, texts)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def post(connection: http.client.HTTPConnection, texts: list[str]) -> int:
    connection.request("POST", "/v1/embeddings", json.dumps({"model": "tiny", "input": texts}))
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@contextmanager
def command(bundle: Bundle, *options: str) -> Iterator[Command]:
    arguments = [sys.executable, "-m", "ese_deploy", "serve", f"tiny={bundle.path}", "--threads", "1", *options]
    process = subprocess.Popen(
        arguments, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    found = Command(process)
    reader = threading.Thread(target=found.read, daemon=True)
    reader.start()
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
