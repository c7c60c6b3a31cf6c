"""Load while the server ends, reloads or loses a worker: what was accepted is answered."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from helpers.command import Command, command
from helpers.server import Reply, running

from benchmarks.serve.client import embeddings_request
from ese_deploy.bundle.reader import Bundle
from ese_deploy.server.catalog import Lane
from ese_deploy.server.settings import Limits, ServeSettings


@dataclass
class Load:
    """Clients that send one request after another until they are refused a connection or told to stop.

    Attributes:
        port: of the server.
        kept: whether they keep their connection as long as the server does.
        outcomes: how many requests ended how: a status, ``refused``, or ``lost`` without an answer.
    """

    port: int
    kept: bool
    outcomes: Counter[str] = field(default_factory=Counter)
    stop: threading.Event = field(default_factory=threading.Event)

    def client(self, number: int) -> None:
        request = embeddings_request(f"http://127.0.0.1:{self.port}", "tiny", [f"text {number}"] * (1 + number % 3))
        connection: socket.socket | None = None
        while not self.stop.is_set():
            if connection is None:
                try:
                    connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
                except ConnectionRefusedError:
                    self.outcomes["refused"] += 1
                    return
            outcome, closed = exchange(connection, request)
            self.outcomes[outcome] += 1
            if closed or not self.kept:
                connection.close()
                connection = None
            time.sleep(0.002 * (number % 4))
        if connection is not None:
            connection.close()


def exchange(connection: socket.socket, request: bytes) -> tuple[str, bool]:
    """The status of the answer or ``lost``, and whether the server closes the connection."""
    data = b""
    try:
        connection.sendall(request)
        while b"\r\n\r\n" not in data:
            data += (part := connection.recv(1 << 16))
            if not part:
                return "lost", True
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += (part := connection.recv(1 << 16))
            if not part:
                return "lost", True
    except OSError:
        return "lost", True
    return head.split(b" ")[1].decode(), fields.get(b"connection") == b"close"


@contextmanager
def load(port: int, kept: bool, clients: int = 16) -> Iterator[Load]:
    found = Load(port, kept)
    with ThreadPoolExecutor(clients) as pool:
        for number in range(clients):
            pool.submit(found.client, number)
        try:
            yield found
        finally:
            found.stop.set()


def workers_of(found: Command) -> list[int]:
    words = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(found.process.pid)]
    lines = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if "spawn_main" in line]


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_under_load_loses_nothing(tiny_bundle: Bundle, workers: int, kept: bool) -> None:
    with command(tiny_bundle, "--port", "0", "--workers", str(workers)) as found:
        with load(found.port, kept) as sent:
            while sent.outcomes["200"] < 200:
                time.sleep(0.01)
            found.process.send_signal(signal.SIGTERM)
            assert found.process.wait(30) == 0
        assert set(sent.outcomes) <= {"200", "503", "refused"}
        assert sent.outcomes["refused"] == 16


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_what_waits_in_the_backlog_is_answered(tiny_bundle: Bundle) -> None:
    with command(tiny_bundle, "--port", "0") as found:
        port = found.port
        found.process.send_signal(signal.SIGSTOP)
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(40)]
        large = ["word " * 200] * 400  # more than is read at once
        requests = [
            embeddings_request("http://127.0.0.1", "tiny", large if number == 7 else ["a"]) for number in range(40)
        ]
        for connection, request in zip(waiting, requests, strict=True):
            connection.sendall(request)
        found.process.send_signal(signal.SIGTERM)
        found.process.send_signal(signal.SIGCONT)
        outcomes = Counter(exchange(connection, b"")[0] for connection in waiting)
        for connection in waiting:
            connection.close()
        assert found.process.wait(30) == 0
    assert set(outcomes) <= {"200", "503"}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_reloads_under_load_lose_nothing(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    key = "0123456789abcdef"
    with command(tiny_bundle, "--port", "0", "--workers", str(workers)) as found:
        with load(found.port, kept=True) as sent:
            for times in range(1, 4):
                while sent.outcomes["200"] < 100 * times:
                    time.sleep(0.01)
                found.process.send_signal(signal.SIGHUP)
                found.wait_for("reloaded", times * workers)
        assert set(sent.outcomes) == {"200"}
        assert not [event for event in found.events if event["message"] == "a worker died and is replaced"]
    monkeypatch.setenv("ESE_DEPLOY_API_KEYS", key)
    with command(tiny_bundle, "--port", "0", "--workers", str(workers)) as found:
        body = f"POST /reload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 0\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", found.port), timeout=30) as connection:
            assert exchange(connection, body)[0] == "200"
        found.wait_for("reloaded", workers)


@pytest.mark.slow
def test_a_worker_that_is_killed_under_load_loses_its_own_requests_only(tiny_bundle: Bundle) -> None:
    with command(tiny_bundle, "--port", "0", "--workers", "2") as found:
        with load(found.port, kept=False) as sent:
            while sent.outcomes["200"] < 100:
                time.sleep(0.01)
            victim = workers_of(found)[0]
            os.kill(victim, signal.SIGKILL)
            assert found.wait_for("a worker died and is replaced")["pid"] == victim
            before = sent.outcomes["200"]
            while len(workers_of(found)) < 2 or sent.outcomes["200"] < before + 100:
                time.sleep(0.01)
        # Each client has one request at a time.
        assert sent.outcomes["lost"] <= 16
        assert set(sent.outcomes) <= {"200", "lost"}
        assert found.end() == 0


def test_overload_is_refused_at_the_door(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = Lane.embed

    def slow(lane: Lane, encodings: list[list[int]]) -> object:
        time.sleep(sum(len(encoding) for encoding in encodings) / 1000)
        return embed(lane, encodings)

    settings = ServeSettings({"tiny": tiny_bundle.path}, limits=Limits(timeout=4))
    with running(settings) as server:
        monkeypatch.setattr(Lane, "embed", slow)
        end = time.monotonic() + 3
        replies: list[tuple[int, Reply]] = []

        def client(number: int) -> None:
            count = 1 + 7 * (number % 3)
            while time.monotonic() < end:
                reply = server.embed(input=["one two three four"] * count)
                replies.append((count, reply))
                time.sleep(0.02)

        with ThreadPoolExecutor(60) as pool:
            list(pool.map(client, range(60)))
    statuses = Counter(reply.status for _, reply in replies)
    assert set(statuses) == {200, 429}
    assert all(1 <= int(reply.headers["retry-after"]) <= 4 for _, reply in replies if reply.status == 429)
    assert all(len(json.loads(reply.body)["data"]) == count for count, reply in replies if reply.status == 200)
