"""Malformed requests: never a 5xx, never a hang, and the server goes on."""

import asyncio
import json
import socket
import time
from typing import Any

import psutil
import pytest
from helpers.server import Running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.serve.malformed import send_malformed

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=20), st.just("a" * 5000)
)
LISTS = st.lists(SCALARS, max_size=4)
VALUES = st.one_of(SCALARS, LISTS, st.lists(LISTS, max_size=3), st.dictionaries(st.text(max_size=5), LISTS, max_size=3))
FIELDS = st.sampled_from(
    ["input", "model", "dimensions", "encoding_format", "depth", "precision", "input_type", "truncate", "min_quality"]
)
PATHS = st.sampled_from(["/v1/embeddings", "/embed", "/tokenize", "/v1/models", "/reload", "/%ff", "/v1/models/%00"])


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.dictionaries(FIELDS, VALUES, max_size=3), path=PATHS)
def test_bodies_of_any_values(server: Running, changes: dict[str, Any], path: str) -> None:
    body = json.dumps({"model": "tiny", "input": "a", **changes})
    status = server.post(path, body.encode("utf-8", "surrogatepass")).status
    assert 200 <= status < 500


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=200))
def test_bodies_of_any_bytes(server: Running, body: bytes) -> None:
    # hypothesis also tries texts that it finds in the code, and so good requests.
    assert 200 <= server.post("/v1/embeddings", body).status < 500


def raw(server: Running, data: bytes) -> bytes:
    """What the server answers to bytes; after a while without an answer, the client sends no more."""
    found = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.5) as connection:
        try:
            connection.sendall(data)
            found = connection.recv(1 << 16)
        except TimeoutError:  # the server waits for the rest
            connection.settimeout(20)
            connection.shutdown(socket.SHUT_WR)
            found = connection.recv(1 << 16)
        except OSError:  # the server has closed it already
            pass
    return found


def test_no_malformed_request_is_an_error_of_the_server(server: Running) -> None:
    rss = psutil.Process().memory_info().rss
    found = asyncio.run(send_malformed(server.url, "tiny", 180, lambda: rss))
    assert found.problems == []
    assert sum(found.statuses.values()) == 180
    assert sum(count for status, count in found.statuses.items() if status.startswith("4")) > 90
    assert len({kind.partition(",")[0] for kind in found.kinds}) == 9
    # The last request may be answered a moment before it is counted out.
    end = time.monotonic() + 10
    while server.service.in_flight and time.monotonic() < end:
        time.sleep(0.01)
    assert server.service.in_flight == server.service.scheduler.waiting_tokens == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET " + b"/a" * 50_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(server: Running, data: bytes) -> None:
    status = raw(server, data)[9:12]
    assert status in (b"400", b"413", b"404", b"")
    assert server.get("/livez").status == 200
