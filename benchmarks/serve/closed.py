"""Closed-loop load: some connections, each with one request at a time, for the most that a server answers."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.serve.load import cpu_seconds

__all__ = ["Measured", "saturate"]


@dataclass(frozen=True)
class Measured:
    """What a server answered.

    Attributes:
        answers: bodies of the answers with 200, with the number of the request.
        failed: other answers, and connections that were closed.
        seconds: wall time.
        cpu_seconds: CPU time of the server.
    """

    answers: list[tuple[int, bytes]]
    failed: int
    seconds: float
    cpu_seconds: float


@dataclass
class _Run:
    requests: Sequence[bytes]
    end: float
    done: "asyncio.Future[None]"
    open: int
    next: int = 0
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    failed: int = 0


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the last is answered. A protocol takes a third of the CPU time of streams."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._data = bytearray()
        self._number = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        run = self._run
        if time.perf_counter() >= run.end:
            self._transport.close()
            return
        self._number = run.next % len(run.requests)
        run.next += 1
        self._transport.write(run.requests[self._number])

    def data_received(self, data: bytes) -> None:
        self._data += data
        stop = self._data.find(b"\r\n\r\n")
        if stop < 0:
            return
        head = bytes(self._data[:stop]).lower()
        size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self._data) < stop + 4 + size:
            return
        if head.split(b" ", 2)[1] == b"200":
            self._run.answers.append((self._number, bytes(self._data[stop + 4 :])))
        else:
            self._run.failed += 1
        self._data.clear()
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        run = self._run
        run.open -= 1
        run.failed += time.perf_counter() < run.end
        if not run.open and not run.done.done():
            run.done.set_result(None)


async def saturate(url: str, pid: int, requests: Sequence[bytes], connections: int, seconds: float) -> Measured:
    """Send requests for some seconds.

    Args:
        url: of the server.
        pid: its process, whose CPU time is counted with that of its children.
        requests: sent one after another, from the start again after the last.
        connections: how many requests are under way at a time.
        seconds: how long.
    """
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    cpu, started = cpu_seconds(pid) or 0.0, time.perf_counter()
    run = _Run(requests, started + seconds, loop.create_future(), connections)
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(run), parts.hostname, parts.port)
    await run.done
    spent = (cpu_seconds(pid) or 0.0) - cpu
    return Measured(run.answers, run.failed, time.perf_counter() - started, spent)
