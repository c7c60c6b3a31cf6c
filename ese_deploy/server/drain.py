"""Ending without losing a request: everything that reached the server is answered before it closes."""

import asyncio
import contextlib
import ctypes
import logging
import selectors
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any, cast

import uvicorn

from ese_deploy.server.logs import log_event
from ese_deploy.server.protocol import HttpProtocol
from ese_deploy.server.service import Service

__all__ = ["drain"]

_POLL_SECONDS = 0.02
# Clients that have a connection open, or open one, learn from a 503 that they must go elsewhere.
_LEAVE_SECONDS = 0.5
# Handshakes that were under way when connections were shut out end meanwhile.
_HANDSHAKE_SECONDS = 0.25
# A connection that has just been opened or used gets so long for its next request.
_QUIET_SECONDS = 0.25

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux
# Classic BPF on the TCP header: drop what has SYN and not ACK set in byte 13, keep the rest.
_DROP_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


async def drain(server: uvicorn.Server, listener: socket.socket, service: Service) -> None:
    """Answer what was accepted, and what still comes in on open connections, then let the server end.

    Args:
        server: of uvicorn.
        listener: its socket. Other processes may accept from it too.
        service: the state of the process. Its ``draining`` makes the application answer new requests with 503.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    end = started + service.settings.drain_seconds
    log_event("draining", in_flight=service.in_flight)
    await asyncio.sleep(min(_LEAVE_SECONDS, max(0.0, end - loop.time())))
    _shut_out(listener, service)
    await asyncio.sleep(min(_HANDSHAKE_SECONDS, max(0.0, end - loop.time())))
    while loop.time() < end:
        connections = [cast(HttpProtocol, one) for one in server.server_state.connections]
        if not service.in_flight and not connections and not _readable([listener]):
            break
        _close_quiet(connections, loop.time() - _QUIET_SECONDS)
        await asyncio.sleep(_POLL_SECONDS)
    if service.in_flight:
        log_event("gave up on accepted requests", logging.WARNING, in_flight=service.in_flight)
    server.should_exit = True


def _shut_out(listener: socket.socket, service: Service) -> None:
    """Let no further connections into the backlog, where the system allows it: those in it are reset at the end.

    Clients that try meanwhile try again, and are then refused like by any port on which nobody listens.
    """
    uds = service.settings.uds
    if uds is not None:
        uds.unlink(missing_ok=True)
    elif sys.platform == "linux":
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
        with contextlib.suppress(OSError):
            listener.setsockopt(
                socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
            )


def _close_quiet(connections: Iterable[HttpProtocol], since: float) -> None:
    """Close connections on which nothing has happened since then, and nothing has arrived."""
    quiet = [one for one in connections if one.quiet_since is not None and one.quiet_since <= since]
    sockets = {one: one.transport.get_extra_info("socket") for one in quiet}
    readable = _readable(sockets.values())
    for one, found in sockets.items():
        if found not in readable:
            one.transport.close()


def _readable(sockets: Iterable[Any]) -> list[Any]:
    """Those on which data or connections wait."""
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            with contextlib.suppress(ValueError, OSError):  # closed meanwhile
                selector.register(one, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(0)] if selector.get_map() else []
