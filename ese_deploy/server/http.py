"""Reading requests and writing answers."""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ese_deploy.server.errors import ApiError, error_body
from ese_deploy.server.metrics import Recorded

__all__ = [
    "Answer",
    "Call",
    "ClientGoneError",
    "Handler",
    "Receive",
    "Scope",
    "Send",
    "discard_body",
    "failure",
    "json_answer",
    "read_body",
]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_JSON = msgspec.json.Encoder()
# What is read of a body that nobody wants, before the connection is closed.
_DISCARD_BYTES = 64 << 20
_DISCARD_SECONDS = 5.0


class ClientGoneError(Exception):
    """The client has closed the connection."""


@dataclass
class Call:
    """A request, and what is recorded about it.

    Attributes:
        scope: of ASGI.
        receive: of ASGI.
        timeout: seconds from the start to the answer.
        recorded: for logs and metrics.
        body_read: whether the whole body was read.
    """

    scope: Scope
    receive: Receive
    timeout: float
    recorded: Recorded = field(default_factory=Recorded)
    body_read: bool = False
    started: float = field(default_factory=time.monotonic)
    headers: Mapping[bytes, bytes] = field(init=False)
    request_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.headers = dict(self.scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"

    @property
    def path(self) -> str:
        """The path of the URL."""
        return str(self.scope["path"])

    @property
    def trace_id(self) -> str | None:
        """The trace that the request belongs to, by its header ``traceparent``."""
        match = _TRACEPARENT.fullmatch(self.headers.get(b"traceparent", b""))
        return match[1].decode() if match else None

    @property
    def seconds_left(self) -> float:
        """Until the request times out."""
        return self.started + self.timeout - time.monotonic()


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        body: its bytes.
        status: the HTTP status.
        content_type: of the body.
        headers: further headers.
    """

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    async def send(self, send: Send, request_id: str) -> None:
        """Send the answer."""
        headers = {
            "content-type": self.content_type,
            "content-length": str(len(self.body)),
            "x-request-id": request_id,
            **self.headers,
        }
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        await send({"type": "http.response.body", "body": self.body})


Handler = Callable[[Call], Awaitable[Answer]]


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body."""
    return Answer(_JSON.encode(value), status, headers=headers or {})


def failure(error: ApiError) -> Answer:
    """The answer to a request that failed."""
    return json_answer(error_body(error), error.status, error.headers)


async def read_body(call: Call, limit: int) -> bytes:
    """Read a request's body.

    Raises:
        ApiError: 408 if it does not arrive in time, 413 if it is longer than ``limit`` bytes, 415 if it is compressed.
        ClientGoneError: the client closed the connection.
    """
    too_large = ApiError(
        413,
        f"The body is larger than {limit} bytes. Send several requests.",
        code="body_too_large",
        headers={"connection": "close"},
    )
    if call.headers.get(b"content-encoding", b"identity") != b"identity":
        raise ApiError(415, "Compressed bodies are not supported. Send the JSON as it is.", code="content_encoding")
    if int(call.headers.get(b"content-length", b"0")) > limit:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(call.seconds_left):
            while True:
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    raise too_large
                if not message.get("more_body", False):
                    call.body_read = True
                    return b"".join(chunks)
    except TimeoutError:
        raise ApiError(
            408, "The body did not arrive in time.", code="timeout", headers={"connection": "close"}
        ) from None


async def discard_body(call: Call) -> None:
    """Read the rest of a body. A connection that is closed with unread bytes is reset, and the answer can be lost."""
    if call.body_read or b"expect" in call.headers:  # with the latter, the client has not sent it yet
        return
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while size < _DISCARD_BYTES:
                message = await call.receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
