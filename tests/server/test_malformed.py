"""Malformed requests: never a 5xx, never a hang, and the server goes on."""

import json
import random
import socket
import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.server import Running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    assert 400 <= server.post("/v1/embeddings", body).status < 500


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


def mutations(seed: int, count: int) -> list[bytes]:
    """Requests with bytes changed, left out, doubled and put in."""
    chance = random.Random(seed)
    body = json.dumps({"model": "tiny", "input": ["a cat", "a dog"], "dimensions": 16}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    good = head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    found = []
    for _ in range(count):
        data = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[place] = chance.randrange(256)
                case 1:
                    del data[place : place + chance.randint(1, 20)]
                case 2:
                    data[place:place] = data[place : place + chance.randint(1, 50)]
                case 3:
                    data[place:place] = chance.choice(string.printable).encode() * chance.randint(1, 30)
            if len(data) < 2:
                break
        found.append(bytes(data))
    return found


@pytest.mark.parametrize("count", [100, pytest.param(9_500, marks=pytest.mark.slow)])
def test_requests_with_changed_bytes(server: Running, count: int) -> None:
    requests = mutations(7, count)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda data: raw(server, data)[9:12], requests))
    bad = {request: answer for request, answer in zip(requests, answers, strict=True) if answer[:1] == b"5"}
    assert bad == {}
    assert sum(answer[:1] == b"4" for answer in answers) > count / 3
    assert server.embed(input="a").status == 200
    assert server.service.scheduler.waiting_tokens == 0
    assert server.service.in_flight == 0


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
