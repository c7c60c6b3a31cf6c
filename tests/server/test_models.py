"""Which target answers: budgets, load and what a server refuses to start with."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.server import Reply, Running, running
from server.conftest import settings_of

from ese_deploy import Encoder
from ese_deploy.bundle.reader import Bundle
from ese_deploy.choose import choose
from ese_deploy.errors import EseDeployError, InputError
from ese_deploy.server.catalog import Lane
from ese_deploy.server.loading import load_catalog
from ese_deploy.server.scheduler import Scheduler
from ese_deploy.server.settings import Limits, ServeSettings
from ese_deploy.target import Target

CHAIN = (Target(3, 16), Target(2, 16))


def degrading(bundle: Bundle, degrade: tuple[Target, ...] = CHAIN) -> ServeSettings:
    return settings_of(bundle, degrade=degrade, targets=(Target(2, 16), Target(3, 16), Target(3, 32)))


@pytest.mark.parametrize(("fill", "answers"), [(0.49, "3x16"), (0.5, "2x16"), (1.0, "2x16")])
def test_queries_are_answered_by_a_shallower_target_while_the_queue_is_full(
    aligned_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, fill: float, answers: str
) -> None:
    monkeypatch.setattr(Scheduler, "fill", fill)
    with running(degrading(aligned_bundle)) as server:
        reply = server.embed(model="tiny:3x16", input="a cat", input_type="query")
        assert reply.json["model"] == reply.headers["x-ese-target"] == f"tiny:{answers}"
        expected = None if answers == "3x16" else "3x16"
        assert reply.json.get("degraded_from") == reply.headers.get("x-ese-degraded-from") == expected
        vector = Encoder.open(aligned_bundle, answers).encode_query("a cat")
        assert np.abs(np.array(reply.json["data"][0]["embedding"]) - vector).max() <= 1e-6
        # Documents, and targets that are not in the list, keep theirs.
        for fields in ({"model": "tiny:3x16", "input_type": "document"}, {"model": "tiny:3x32", "input_type": "query"}):
            assert "degraded_from" not in server.embed(input="a cat", **fields).json
        counted = 'ese_degraded_requests_total{model="tiny",target="3x16",to="2x16"} 1.0'
        assert (counted in server.get("/metrics").body.decode()) == (answers == "2x16")


def test_targets_of_several_embedding_spaces_cannot_stand_in_for_one_another(tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="not comparable"):
        load_catalog(degrading(tiny_bundle), 1)
    with pytest.raises(InputError, match="names 9x16"):
        load_catalog(degrading(tiny_bundle, (Target(9, 16), Target(3, 16))), 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"targets": (Target(9, 99),)},
        {"aliases": {"small": "tiny:9x99"}},
        {"aliases": {"small": "other"}},
        {"engine": "onnxruntime-cuda"},
    ],
)
def test_a_server_does_not_start_with_targets_that_it_does_not_have(
    tiny_bundle: Bundle, settings: dict[str, object]
) -> None:
    with pytest.raises(EseDeployError):
        load_catalog(settings_of(tiny_bundle, **settings), 1)


def test_auto_takes_what_choose_takes(server: Running, tiny_bundle: Bundle) -> None:
    quality = [figure for entry in tiny_bundle.manifest.targets for figure in entry.quality]
    figures = sorted(figure.value for figure in quality if figure.metric == "agreement")
    least = figures[1] - 1e-6
    best = choose(tiny_bundle, min_quality=least, engines=["onnxruntime"]).best
    assert best is not None
    assert server.embed(model="auto", input="a", min_quality=least).json["model"] == f"tiny:{best.name}"
    assert server.embed(model="tiny:auto", input="a", min_quality=0.0, depth=3).json["model"].startswith("tiny:3x")
    refused = server.embed(model="auto", input="a", min_quality=2)
    assert (refused.status, "above 1" in refused.error["message"]) == (400, True)
    assert server.embed(model="auto", input="a", min_quality=0.0, dimensions=9).status == 400


def test_a_budget_profile_is_a_model_name(server: Running, tiny_bundle: Bundle) -> None:
    unknown = server.embed(model="tiny:no-such-profile", input="a")
    assert (unknown.status, "no-such-profile" in unknown.error["message"]) == (400, True)


def test_several_bundles_each_have_their_name(tiny_bundle: Bundle, aligned_bundle: Bundle) -> None:
    bundles = {"one": Path(tiny_bundle.path), "two": Path(aligned_bundle.path)}
    with running(ServeSettings(bundles)) as server:
        assert server.embed(model="two", input="a").json["model"] == "two:3x32"
        assert server.embed(model="one:1x8", input="a").json["model"] == "one:1x8"
        refused = server.embed(model="3x32", input="a")
        assert (refused.status, "one, two" in refused.error["message"]) == (400, True)


def test_a_full_queue_and_a_slow_answer(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    may = threading.Event()
    embed = Lane.embed

    def wait(lane: Lane, encodings: Any) -> Any:
        assert may.wait(20)
        return embed(lane, encodings)

    with running(settings_of(tiny_bundle, limits=Limits(queue_tokens=50, timeout=1))) as server:
        monkeypatch.setattr(Lane, "embed", wait)
        replies: list[Reply] = []
        threads = [threading.Thread(target=lambda: replies.append(server.embed(input="word " * 30))) for _ in range(2)]
        for count, thread in enumerate(threads):
            thread.start()
            while server.service.in_flight <= count or (count == 1 and not server.service.scheduler.waiting_tokens):
                time.sleep(0.01)
            time.sleep(0.05)
        full = server.embed(input="word " * 30)
        assert (full.status, full.error["code"]) == (429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        for thread in threads:
            thread.join()
        # The first one was being computed, the second one waited.
        assert {reply.status: reply.error["code"] for reply in replies} == {504: "timeout", 503: "overloaded"}
        assert server.service.scheduler.waiting_tokens == 0
        may.set()
        assert server.embed(input="a").status == 200


def test_a_client_that_leaves_costs_nothing_more(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    may = threading.Event()
    embed = Lane.embed
    computed: list[int] = []

    def wait(lane: Lane, encodings: Any) -> Any:
        assert may.wait(20)
        computed.append(len(encodings))
        return embed(lane, encodings)

    with running(settings_of(tiny_bundle)) as server:
        monkeypatch.setattr(Lane, "embed", wait)
        body = json.dumps({"model": "tiny", "input": ["word " * 60] * 500}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head + body)
            while not server.service.scheduler.waiting_tokens:
                time.sleep(0.01)
        while server.service.scheduler.waiting_tokens:
            time.sleep(0.01)
        may.set()
        assert server.embed(input="a").status == 200
        assert sum(computed) < 100
        while server.service.in_flight:
            time.sleep(0.01)
        assert 'status="499"' in server.get("/metrics").body.decode()


def test_vectors_can_be_in_the_space_of_the_source_model(projected_bundle: Bundle, tiny_bundle: Bundle) -> None:
    served = load_catalog(settings_of(projected_bundle, space="source"), 1)
    assert {(target.label, target.entry.space) for target in served.targets} == {
        (name, "exit03") for name in ("0x32", "1x32", "3x32")
    }
    target = next(target for target in served.targets if target.label == "3x32")
    found = target.lane.embed(target.lane.tokenizer(["hello"]).encodings)
    assert np.abs(found - Encoder.open(tiny_bundle, "3x32").encode(["hello"])).max() <= 1e-5
    with pytest.raises(InputError, match="ranges of the bundle's own embedding space"):
        _ = target.ranges
    with pytest.raises(InputError, match="needs all 32 dimensions"):
        load_catalog(settings_of(projected_bundle, space="source", targets=(Target(2, 16),)), 1)
    with pytest.raises(InputError, match="Unknown `space` 'mine'"):
        settings_of(projected_bundle, space="mine")
