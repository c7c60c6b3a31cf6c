"""Paths, keys, headers, limits and the interface of text-embeddings-inference."""

import hashlib
import json
import logging
import socket
import time

import numpy as np
import pytest
from helpers.server import Running, running
from server.conftest import settings_of

from ese_deploy import Encoder
from ese_deploy.bundle.reader import Bundle
from ese_deploy.server.keys import ApiKeys
from ese_deploy.server.settings import Limits

KEY = "a-key-of-some-length"


def test_probes_and_metrics(server: Running) -> None:
    server.embed(input=["a", "b"])
    assert [server.get(path).status for path in ("/livez", "/readyz", "/health")] == [200, 200, 200]
    text = server.get("/metrics").body.decode()
    assert 'ese_requests_total{model="tiny",path="/v1/embeddings",status="200",target="3x32"}' in text
    for name in ("ese_texts_total", "ese_tokens_total", "ese_queue_texts", "ese_batch_seconds_bucket"):
        assert name in text


def test_the_description_lists_every_path(server: Running) -> None:
    described = server.get("/openapi.json").json
    assert described["openapi"].startswith("3.1")
    assert {"/v1/embeddings", "/embed", "/tokenize", "/v1/models", "/status"} <= set(described["paths"])
    assert "encoding_format" in described["components"]["schemas"]["EmbeddingsRequest"]["properties"]


def test_unknown_paths_and_methods_have_the_shape_of_errors(server: Running) -> None:
    assert (server.get("/v2").status, server.get("/v2").error["code"]) == (404, "not_found")
    reply = server.get("/v1/embeddings")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


def test_the_interface_of_text_embeddings_inference(server: Running, tiny_bundle: Bundle) -> None:
    encoder = Encoder.open(tiny_bundle)
    found = np.array(server.post("/embed", {"inputs": ["a cat", "a dog"]}).json)
    assert np.abs(found - encoder.encode(["a cat", "a dog"])).max() <= 1e-6
    prompted = np.array(server.post("/embed", {"inputs": "a cat", "prompt_name": "query"}).json)
    assert np.abs(prompted[0] - encoder.encode_query("a cat")).max() <= 1e-6
    assert server.post("/embed", {"inputs": "a", "normalize": False}).status == 400
    assert server.post("/embed", {"inputs": "word " * 999, "truncate": False}).status == 422
    assert server.get("/info").json["max_input_length"] == encoder.max_seq_length


def test_tokenize_gives_ids_text_and_places(server: Running) -> None:
    text = "a cat"
    tokens = server.post("/tokenize", {"inputs": [text]}).json[0]
    assert tokens[0]["special"] and tokens[0]["start"] is None
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens if not token["special"])
    plain = server.post("/tokenize", {"inputs": text, "add_special_tokens": False}).json[0]
    assert [token["id"] for token in plain] == [token["id"] for token in tokens if not token["special"]]
    assert len(server.post("/tokenize", {"inputs": "word " * 999}).json[0]) > 900


def test_request_ids_are_kept_or_made(server: Running) -> None:
    headers = {"X-Request-Id": "mine-1"}
    assert server.request("GET", "/v1/models", headers=headers).headers["x-request-id"] == "mine-1"
    assert len(server.request("GET", "/nothing", headers={"X-Request-Id": "\u00e4 b"}).headers["x-request-id"]) == 32


def test_keys_are_required_where_there_are_some(tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    keys = ApiKeys({"team": hashlib.sha256(KEY.encode()).digest()})
    with caplog.at_level(logging.INFO), running(settings_of(tiny_bundle), keys) as server:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {KEY}"}):
            reply = server.request("POST", "/v1/embeddings", {"model": "tiny", "input": "a"}, header)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        good = {"Authorization": f"Bearer {KEY}", "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
        assert server.request("POST", "/v1/embeddings", {"model": "tiny", "input": "a"}, good).status == 200
        assert server.get("/livez").status == server.get("/").status == 200
        assert server.request("POST", "/reload", headers=good).json == {"status": "reloaded"}
        assert server.request("POST", "/reload").status == 401
    events = [record.values for record in caplog.records if record.name.endswith("events")]  # type: ignore[attr-defined]
    answered = [event for event in events if event.get("key") == "team" and event.get("texts")]
    assert (answered[0]["trace_id"], answered[0]["tokens"] > 1, answered[0]["target"]) == ("ab" * 16, True, "3x32")
    assert KEY not in json.dumps(events)


def test_reload_over_http_needs_keys(server: Running) -> None:
    assert server.post("/reload", b"").status == 403


def test_browsers_of_other_origins_are_let_in_only_if_asked_for(server: Running, tiny_bundle: Bundle) -> None:
    origin = {"Origin": "https://app.example"}
    assert "access-control-allow-origin" not in server.request("GET", "/v1/models", headers=origin).headers
    with running(settings_of(tiny_bundle, cors_origins=("https://app.example",))) as other:
        reply = other.request("GET", "/v1/models", headers=origin)
        assert reply.headers["access-control-allow-origin"] == "https://app.example"


def test_limits_of_a_request(tiny_bundle: Bundle) -> None:
    limits = Limits(body_bytes=2000, texts=5, request_tokens=50, timeout=1)
    with running(settings_of(tiny_bundle, limits=limits)) as server:
        assert server.embed(input="a" * 3000).status == 413
        assert server.embed(input=["a"] * 6).error["code"] == "too_many_texts"
        assert server.embed(input=["a " * 40] * 2).error["code"] == "too_many_tokens"
        compressed = server.post("/v1/embeddings", b"x", {"Content-Encoding": "gzip"})
        assert compressed.status == 415
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            started = time.monotonic()
            assert b" 408 " in slow.recv(1000)
            assert time.monotonic() - started < 20
        with socket.create_connection(("127.0.0.1", server.port)) as chunked:
            chunked.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunked.sendall(b"fa0\r\n" + b"x" * 4000 + b"\r\n")
            assert b" 413 " in chunked.recv(1000)
        with socket.create_connection(("127.0.0.1", server.port)) as large:
            large.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")
            assert b" 400 " in large.recv(1000)
        assert server.embed(input="a").status == 200
