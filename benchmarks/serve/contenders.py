"""What is compared: ``ese-deploy serve`` at several targets, and servers of other projects with the same model."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.serve.client import embeddings_request

__all__ = ["Contender", "Other", "fastapi", "infinity", "running_other"]

_HERE = Path(__file__).parent
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Contender:
    """A running server and the model name of the requests to it.

    Attributes:
        name: in results.
        url: of the server.
        model: model name of the requests.
        pid: process of the server.
        target: target whose vectors it gives; None where they are those of the full model, up to a rotation.
    """

    name: str
    url: str
    model: str
    pid: int
    target: str | None = None

    @contextmanager
    def only(self, others: Sequence["Contender"]) -> Iterator[None]:
        """Stop the processes of the other servers meanwhile, so that they take no CPU time."""
        processes = [one for pid in {other.pid for other in others} - {self.pid} for one in _tree(pid)]
        _send(processes, signal.SIGSTOP)
        try:
            yield
        finally:
            _send(processes, signal.SIGCONT)

    def request(self, texts: Sequence[str]) -> bytes:
        """A request for the vectors of texts."""
        return embeddings_request(self.url, self.model, texts)


def _tree(pid: int) -> list[psutil.Process]:
    found = psutil.Process(pid)
    return [found, *found.children(recursive=True)]


def _send(processes: Sequence[psutil.Process], number: int) -> None:
    for one in processes:
        if one.is_running():
            one.send_signal(number)


@dataclass(frozen=True)
class Other:
    """A server of another project.

    Attributes:
        name: in results.
        command: starts it; ``{port}`` stands for the port.
        environment: variables to set.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


def infinity(python: Path, model: Path) -> Other:
    """Infinity in the environment of this Python."""
    options = "--engine torch --device cpu --dtype float32 --no-bettertransformer --no-model-warmup --url-prefix /v1"
    words = [str(python.with_name("infinity_emb")), "v2", "--model-id", str(model), "--served-model-name", "full"]
    words += [*options.split(), "--host", "127.0.0.1", "--port", "{port}"]
    return Other("infinity", words, {"INFINITY_ANONYMOUS_USAGE_STATS": "0"})


def fastapi(python: Path, model: Path) -> Other:
    """FastAPI and sentence-transformers in the environment of this Python."""
    words = [str(python), str(_HERE / "sentence_transformers_server.py"), str(model), "{port}"]
    return Other("FastAPI + sentence-transformers", words)


@contextmanager
def running_other(other: Other, log: Path, threads: int, seconds: float = 240.0) -> Iterator[Contender]:
    """Start a server, wait until it answers, and end it afterwards.

    Args:
        other: the server.
        log: gets what it prints.
        threads: threads that PyTorch computes with.
        seconds: how long it may take to start.

    Raises:
        RuntimeError: it does not answer in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [word.replace("{port}", str(port)) for word in other.command]
    environment = {**os.environ, **_OFFLINE, **other.environment, "OMP_NUM_THREADS": str(threads)}
    environment.pop("PYTHONPATH", None)
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment)
    found = Contender(other.name, f"http://127.0.0.1:{port}", "full", process.pid)
    try:
        end = time.monotonic() + seconds
        while not _answers(found):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{other.name} does not answer: {log.read_text()[-500:]}")
            time.sleep(0.5)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(contender: Contender) -> bool:
    body = contender.request(["a"]).partition(b"\r\n\r\n")[2]
    request = urllib.request.Request(f"{contender.url}/v1/embeddings", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
