"""Malformed requests: a server answers none with 500 or above, does not hang, and does not grow."""

import asyncio
import json
import random
import socket
import string
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.serve.client import Client, embeddings_request

__all__ = ["Case", "MalformedResult", "cases", "send_malformed"]

# Of bytes that the server may have to wait for the rest of, until the client says that there is none.
_PATIENCE_SECONDS = 0.3
_ANSWER_SECONDS = 20.0
_AT_ONCE = 32
_PROBE_EVERY = 250
_WARM_SHARE = 0.2
_GROWTH = 0.05

_HEAD = "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
_PATHS = ("/v1/embeddings", "/embeddings", "/embed", "/tokenize")
_FIELDS = (
    "input",
    "inputs",
    "model",
    "dimensions",
    "encoding_format",
    "depth",
    "precision",
    "input_type",
    "prompt_name",
    "truncate",
    "min_quality",
    "max_latency_ms",
)


@dataclass(frozen=True)
class Case:
    """What a client does.

    Attributes:
        kind: how the request is malformed.
        parts: bytes that it sends, with a pause between them.
        leaves: whether it closes the connection at once, without waiting for an answer.
    """

    kind: str
    parts: tuple[bytes, ...]
    leaves: bool = False


class MalformedResult(msgspec.Struct, frozen=True):
    """What happened.

    Attributes:
        kinds: requests of each kind.
        statuses: answers by status; 0 is a connection that was closed without one.
        rss_mb: resident memory of the server after a fifth of the requests, and at the end.
        problems: what must not happen; empty if nothing did.
    """

    kinds: dict[str, int]
    statuses: dict[str, int]
    rss_mb: tuple[float, float]
    problems: list[str]


def _post(body: bytes, path: str = "/v1/embeddings") -> bytes:
    return _HEAD.format(path=path).encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def _scalar(chance: random.Random) -> Any:
    return chance.choice(
        [
            None,
            True,
            chance.randint(-(10**30), 10**30),
            10 ** chance.randint(1, 400),
            chance.uniform(-1e300, 1e300),
            float("inf"),
            float("nan"),
            "",
            "a" * chance.choice([1, 5000]),
            "\ud800",
            "\x00",
            "".join(
                chr(chance.choice([chance.randrange(0xD800), chance.randrange(0xE000, 0x110000)])) for _ in range(9)
            ),
        ]
    )


def _value(chance: random.Random, depth: int = 2) -> Any:
    kind = chance.randrange(4) if depth else 0
    if kind == 1:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(5))]
    if kind == 2:
        return {str(_scalar(chance))[:9]: _value(chance, depth - 1) for _ in range(chance.randrange(4))}
    return _scalar(chance)


def _values(chance: random.Random) -> bytes:
    fields = {"model": "tiny", "input": "a", **{chance.choice(_FIELDS): _value(chance) for _ in range(3)}}
    return _post(json.dumps(fields).encode("utf-8", "surrogatepass"), chance.choice(_PATHS))


def _any_bytes(chance: random.Random) -> bytes:
    return _post(chance.randbytes(chance.randrange(300)), chance.choice(_PATHS))


def _deep(chance: random.Random) -> bytes:
    depth = chance.choice([10, 1000, 50_000])
    opening, closing = chance.choice([("[", "]"), ('{"a":', "}"), ('[{"input":', "}]")])
    inner = opening * depth + "1" + closing * (depth if chance.random() < 0.5 else 0)
    return _post(b'{"model": "tiny", "input": ' + inner.encode() + b"}")


def _numbers(chance: random.Random) -> bytes:
    number = chance.choice(
        ["9" * 5000, "-" + "9" * 400, "1e999", "-1e-999", "0" * 99, "0x10", "1.", "NaN", "2147483648"]
    )
    field = chance.choice(["dimensions", "depth", "min_quality", "max_latency_ms", "input"])
    return _post(f'{{"model": "tiny", "input": [1], "{field}": {chance.choice([number, f"[{number}]"])}}}'.encode())


def _wrong_utf8(chance: random.Random) -> bytes:
    wrong = chance.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\\ud800", b"\\u12", b"\xc0\xaf"])
    return _post(b'{"model": "tiny", "input": "' + wrong * chance.randint(1, 5) + b'"}')


def _headers(chance: random.Random) -> bytes:
    body = b'{"model": "tiny", "input": "a"}'
    lines = [
        "Content-Length: " + chance.choice(["-1", "99999999999999999999", "1e3", "", "31, 31", "0x1f"]),
        "Content-Length: 31\r\nContent-Length: 7",
        "Transfer-Encoding: chunked\r\nContent-Length: 31",
        "Transfer-Encoding: " + chance.choice(["gzip", "chunked, chunked", "\x0bchunked"]),
        "Content-Encoding: gzip\r\nContent-Length: 31",
        "X-Long: " + "a" * chance.choice([10_000, 70_000]),
        "\r\n".join(f"X-{number}: 1" for number in range(chance.choice([50, 6000]))),
        f"{''.join(chance.choices(string.printable, k=20))}: {''.join(chance.choices(string.printable, k=20))}",
        "traceparent: " + "".join(chance.choices("0123456789abcdef-", k=55)),
        "X-Request-Id: " + "".join(chance.choices(string.printable, k=300)),
        "Expect: 100-continue\r\nContent-Length: 31",
        "Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 31",
        "Authorization: " + "".join(chance.choices(string.printable, k=200)),
    ]
    return (_HEAD.format(path="/v1/embeddings") + chance.choice(lines)).encode() + b"\r\n\r\n" + body


def _chunks(chance: random.Random) -> bytes:
    size = chance.choice(["zz", "-5", "ffffffffffffffffff", "5;" + "a" * 20_000, "", "1f"])
    return (_HEAD.format(path="/v1/embeddings") + f"Transfer-Encoding: chunked\r\n\r\n{size}\r\n").encode() + b"{}\r\n"


def _lines(chance: random.Random) -> bytes:
    method = chance.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS", "BREW", "get", ""])
    path = chance.choice(
        [
            "/",
            "/%ff",
            "/v1/models/%00",
            "//",
            "*",
            "/" + "a" * 70_000,
            "/reload",
            "/\xff",
            "/../../etc/passwd",
            "/?\x00",
            "",
        ]
    )
    version = chance.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP/", "", "ICY"])
    return f"{method} {path} {version}\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1")


def _mutated(chance: random.Random) -> bytes:
    data = bytearray(_post(json.dumps({"model": "tiny", "input": ["a cat", "a dog"], "dimensions": 16}).encode()))
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
    return bytes(data)


_KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "changed bytes": _mutated,
    "any values": _values,
    "any bytes": _any_bytes,
    "deep JSON": _deep,
    "huge numbers": _numbers,
    "wrong UTF-8": _wrong_utf8,
    "headers": _headers,
    "chunks": _chunks,
    "request lines": _lines,
}


def cases(count: int, seed: int = 1) -> Iterator[Case]:
    """Malformed requests of all kinds; some are sent slowly, cut off, or by clients that do not wait."""
    chance = random.Random(seed)
    names = list(_KINDS)
    for number in range(count):
        kind = names[number % len(names)]
        data = _KINDS[kind](chance)
        match chance.randrange(8):
            case 0:
                places = sorted(chance.randrange(1, len(data)) for _ in range(3))
                parts = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
                yield Case(f"{kind}, slowly", tuple(parts))
            case 1:
                yield Case(f"{kind}, cut off", (data[: chance.randrange(1, len(data))],))
            case 2:
                yield Case(f"{kind}, client leaves", (data,), leaves=True)
            case _:
                yield Case(kind, (data,))


async def _play(address: tuple[str, int], case: Case) -> int:
    """The status of the answer; 0 without one.

    Raises:
        TimeoutError: the server neither answers nor closes the connection.
    """
    reader, writer = await asyncio.open_connection(*address)
    try:
        for place, part in enumerate(case.parts):
            await asyncio.sleep(0.02 if place else 0)
            writer.write(part)
            await writer.drain()
        if case.leaves:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return 0
        line = b""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                line = await reader.read(64)
        except TimeoutError:  # the server waits for the rest
            writer.write_eof()
            async with asyncio.timeout(_ANSWER_SECONDS):
                line = await reader.read(64)
        return int(line[9:12]) if line.startswith(b"HTTP/1.") else 0
    except (ConnectionError, BrokenPipeError):
        return 0
    finally:
        writer.close()


async def send_malformed(url: str, model: str, count: int, rss: Callable[[], int], seed: int = 1) -> MalformedResult:
    """Send malformed requests, 32 at a time, and good ones between them.

    Args:
        url: of the server.
        model: a model name of the server, for the good ones.
        count: how many.
        rss: gives the server's memory in bytes.
        seed: of the requests.
    """
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
    kinds, statuses, problems, memory = Counter[str](), Counter[str](), list[str](), list[float]()
    client, waiting = Client(url), cases(count, seed)
    sent = 0

    async def worker() -> None:
        nonlocal sent
        for case in waiting:
            sent += 1
            if sent % _PROBE_EVERY == 0:
                reply = await client.send(embeddings_request(url, model, ["a good request"]))
                if reply.status != 200:
                    problems.append(f"after {sent} requests a good one got {reply.status}")
            if sent in (int(count * _WARM_SHARE), count):
                memory.append(rss() / 1e6)
            kinds[case.kind] += 1
            try:
                status = await _play(address, case)
            except TimeoutError:
                problems.append(f"no answer and no end: {case.kind}, {case.parts!r:.500}")
                continue
            statuses[str(status)] += 1
            if status >= 500:
                problems.append(f"{status}: {case.kind}, {case.parts!r:.500}")

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
    problems += await _left_over(url, client)
    client.close()
    first, last = memory[0], memory[-1]
    if count >= 5000 and last > first * (1 + _GROWTH):
        problems.append(f"memory grew from {first:.0f} to {last:.0f} MB")
    return MalformedResult(dict(kinds), dict(statuses), (round(first, 1), round(last, 1)), problems)


async def _left_over(url: str, client: Client) -> list[str]:
    """What the server still holds of them after a while."""
    text = ""
    for _ in range(50):
        reply = await client.send(f"GET /metrics HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode())
        text = reply.body.decode()
        # The request for the metrics is in flight itself.
        if "\nese_queue_tokens 0.0\n" in text and "\nese_requests_in_flight 1.0\n" in text:
            return []
        await asyncio.sleep(0.2)
    lines = [line for line in text.splitlines() if line.startswith(("ese_queue_tokens", "ese_requests_in_flight"))]
    return [f"requests are left: {lines}"]
