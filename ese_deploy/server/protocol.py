"""HTTP connections: uvicorn's, with limits on headers in size and time, and errors in OpenAI's shape."""

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ese_deploy.server.errors import ApiError, error_body

__all__ = ["HttpProtocol"]

_HEADER_BYTES = 64 << 10
_HEADER_SECONDS = 30.0


class HttpProtocol(HttpToolsProtocol):
    """A connection that is closed if the headers of a request are too large, or take too long."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._size = 0
        self._in_headers = False
        self._quiet_since = self.loop.time()

    @property
    def quiet_since(self) -> float | None:
        """Since when no request has been read or answered, by the clock of the event loop; None: one is."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._in_headers or answering or self.pipeline or self.transport.get_write_buffer_size():
            return None
        return self._quiet_since

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the first request."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        self._stop()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Start the time for the headers."""
        super().on_message_begin()
        self._size = 0
        self._in_headers = True
        self._start()

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the time: the body has a limit of its own."""
        self._stop()
        self._in_headers = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Note when the request was answered."""
        self._quiet_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, and close the connection."""
        body = msgspec.json.encode(error_body(ApiError(400, msg, code="invalid_http")))
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[400] + head.encode() + body)
        self.transport.close()

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > _HEADER_BYTES:
            # The parser reports it as an error, which is answered with 400.
            raise ValueError("the headers are too large")

    def _start(self) -> None:
        self._stop()
        self._timer = self.loop.call_later(_HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
