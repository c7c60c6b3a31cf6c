"""A small HTTP/1.1 client on asyncio streams: little CPU time, so that the server gets it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["Client", "Reply", "embeddings_request"]

# Shorter than any server keeps an idle connection: uvicorn 5 seconds unless told otherwise.
_IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        status: the HTTP status; 0 if the connection was closed instead.
        body: the body.
        finished: when the last byte came, by ``time.perf_counter``.
        headers: by name in lower case.
    """

    status: int
    body: bytes
    finished: float
    headers: dict[str, str] = field(default_factory=dict)


def embeddings_request(url: str, model: str, texts: Sequence[str], key: str | None = None) -> bytes:
    """The bytes of a request to ``POST /v1/embeddings`` for float32 in base64."""
    host = urlsplit(url).netloc
    body = json.dumps({"model": model, "input": list(texts), "encoding_format": "base64"}).encode()
    lines = ["POST /v1/embeddings HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *([f"Authorization: Bearer {key}"] if key else []), "", ""]
    return "\r\n".join(lines).encode() + body


class Client:
    """Keeps connections open and uses each for one request at a time.

    Args:
        url: such as ``http://127.0.0.1:8000``.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []

    async def send(self, request: bytes) -> Reply:
        """Send a request, and read the answer."""
        try:
            async with self._connection() as (reader, writer):
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status = int(head.split(" ", 2)[1])
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(fields.get("content-length", "0")))
                finished = time.perf_counter()
                if fields.get("connection") != "close":
                    self._idle.append((reader, writer, finished))
                else:
                    writer.close()
                return Reply(status, body, finished, fields)
        except (OSError, asyncio.IncompleteReadError):
            return Reply(0, b"", time.perf_counter())

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        pair = self._take_idle() or await asyncio.open_connection(*self._address, limit=1 << 24)
        try:
            yield pair
        except BaseException:
            pair[1].close()
            raise

    def _take_idle(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """The connection that was used last, unless servers may be about to close it."""
        while self._idle:
            reader, writer, used = self._idle.pop()
            if not reader.at_eof() and time.perf_counter() < used + _IDLE_SECONDS:
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        """Close all connections."""
        for _, writer, _ in self._idle:
            writer.close()
        self._idle.clear()
