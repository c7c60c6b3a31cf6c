"""OpenAI's interface, with vectors equal to the library's."""

import base64
import threading
from typing import Any

import numpy as np
import pytest
from helpers.server import Running, running

from ese_deploy import Encoder
from ese_deploy.bundle.reader import Bundle
from ese_deploy.server.settings import ServeSettings

TEXTS = ["The night train leaves at nine.", "", "Zürich 25 °C \U0001f600", "word " * 60]
TARGETS = ["1x8", "2x16", "3x16", "3x32"]


def vectors(reply: Any) -> np.ndarray:
    assert reply.status == 200, reply.body
    return np.array([row["embedding"] for row in reply.json["data"]])


@pytest.mark.parametrize("target", TARGETS)
def test_vectors_are_those_of_the_library(server: Running, tiny_bundle: Bundle, target: str) -> None:
    expected = Encoder.open(tiny_bundle, target).encode(TEXTS)
    as_numbers = server.embed(model=f"tiny:{target}", input=TEXTS)
    assert np.abs(vectors(as_numbers) - expected).max() <= 1e-6
    rows = server.embed(model=f"tiny:{target}", input=TEXTS, encoding_format="base64").json["data"]
    decoded = np.array([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])
    assert np.abs(decoded - expected).max() <= 1e-6
    assert [row["index"] for row in rows] == list(range(len(TEXTS)))


def test_dimensions_and_depth_choose_the_target(server: Running, tiny_bundle: Bundle) -> None:
    reply = server.embed(input="a", dimensions=16)
    assert (reply.json["model"], reply.headers["x-ese-target"]) == ("tiny:3x16", "tiny:3x16")
    assert np.abs(vectors(reply)[0] - Encoder.open(tiny_bundle, "3x16").encode("a")).max() <= 1e-6
    assert server.embed(input="a", depth=2, dimensions=16).json["model"] == "tiny:2x16"
    assert server.embed(input="a").json["model"] == "tiny:3x32"
    assert server.embed(model="text-embedding-3-small", input="a").json["model"] == "tiny:2x16"
    assert server.embed(model="2x16", input="a").json["model"] == "tiny:2x16"


def test_token_ids_are_taken_as_they_are(server: Running) -> None:
    tokens = server.post("/tokenize", {"inputs": TEXTS[0]}).json[0]
    ids = [token["id"] for token in tokens]
    expected = vectors(server.embed(input=TEXTS[0]))
    assert np.abs(vectors(server.embed(input=ids)) - expected).max() <= 1e-6
    assert np.abs(vectors(server.embed(input=[ids, ids])) - expected).max() <= 1e-6


def test_usage_counts_tokens(server: Running) -> None:
    count = len(server.post("/tokenize", {"inputs": TEXTS[0]}).json[0])
    usage = server.embed(input=[TEXTS[0], TEXTS[0]], user="somebody").json["usage"]
    assert usage == {"prompt_tokens": 2 * count, "total_tokens": 2 * count}


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_precisions_are_those_of_the_library(
    server: Running, tiny_bundle: Bundle, precision: Any, encoding: str
) -> None:
    expected = Encoder.open(tiny_bundle, "3x16").encode(TEXTS, precision=precision)
    found = vectors(server.embed(model="tiny:3x16", input=TEXTS, precision=precision, encoding_format=encoding))
    if precision in ("int8", "uint8"):
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    else:
        assert (found == expected).mean() > 0.9


def test_input_type_and_prompt_name_put_the_prompt_before_texts(server: Running, tiny_bundle: Bundle) -> None:
    encoder = Encoder.open(tiny_bundle)
    expected = encoder.encode_query("a cat")
    for fields in ({"input_type": "query"}, {"prompt_name": "query"}):
        assert np.abs(vectors(server.embed(input="a cat", **fields))[0] - expected).max() <= 1e-6
    plain = vectors(server.embed(input="a cat", input_type="document"))[0]
    assert np.abs(plain - encoder.encode_document("a cat")).max() <= 1e-6
    assert np.abs(plain - expected).max() > 1e-3
    assert server.embed(input=[1, 2], input_type="query").status == 400


def test_long_texts_are_truncated_or_refused(server: Running, tiny_bundle: Bundle) -> None:
    long = "word " * 1000
    reply = server.embed(input=[long, "a"])
    assert reply.json["truncated"] == 1
    assert np.abs(vectors(reply)[0] - Encoder.open(tiny_bundle).encode(long)).max() <= 1e-6
    refused = server.embed(input=[long, "a"], truncate=False)
    assert (refused.status, refused.error["code"]) == (422, "context_length_exceeded")
    assert server.embed(input=[1] * 1000).status == 422


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"input": []}, 400, "input", "empty"),
        ({"input": ["a", [1]]}, 400, "input", "mixes"),
        ({"input": [[]]}, 400, "input", "empty"),
        ({"input": [True]}, 400, "input[0]", "bool"),
        ({"input": [10**6]}, 400, "input", "check_embedding_ctx_length"),
        ({"input": "a", "dimensions": 12}, 400, "dimensions", "Targets: 1x8, 2x16, 3x16, 3x32"),
        ({"input": "a", "dimensions": 2}, 400, "dimensions", "Targets"),
        ({"input": "a", "depth": 7}, 400, "depth", "Targets"),
        ({"input": "a", "model": "gpt"}, 400, "model", "text-embedding-3-small"),
        ({"input": "a", "model": "tiny:9x99"}, 400, "model", "Targets"),
        ({"input": "a", "model": "tiny:nonsense"}, 400, "model", "nonsense"),
        ({"input": "a", "dimension": 16}, 400, None, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format", "hex"),
        ({"input": "a", "prompt_name": "none"}, 400, "prompt_name", "query"),
        ({"input": {"a": 1}}, 400, "input", "object"),
        ({"input": "a", "max_latency_ms": 5}, 400, "model", "auto"),
        ({"input": "a", "model": "auto"}, 400, "model", "max_latency_ms"),
        ({"input": "a", "model": "auto", "max_latency_ms": 5}, 400, "model", "has not measured"),
        ({"input": ["a"] * 2049}, 413, "input", "2048"),
    ],
)
def test_mistakes_are_answered_with_what_there_is(
    server: Running, fields: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    reply = server.embed(**fields)
    assert (reply.status, reply.error["param"]) == (status, param), reply.body
    assert words in reply.error["message"]
    assert set(reply.error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"input": "\xff"}', b"[" * 100_000, b'{"model": 1e999}'])
def test_what_is_no_json_is_a_400(server: Running, body: bytes) -> None:
    reply = server.post("/v1/embeddings", body)
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error"), reply.body


def test_models_list_targets_with_space_quality_and_bytes(server: Running, tiny_bundle: Bundle) -> None:
    cards = {card["id"]: card for card in server.get("/v1/models").json["data"]}
    assert set(cards) == {"tiny", *(f"tiny:{target}" for target in TARGETS), "text-embedding-3-small"}
    entry = next(one for one in tiny_bundle.manifest.targets if str(one.target) == "2x16")
    card = cards["text-embedding-3-small"]
    assert (card["alias_of"], card["space"], card["dim"]) == ("tiny:2x16", entry.space, 16)
    assert card["bytes"] == entry.bytes + entry.weight_bytes + tiny_bundle.manifest.tokenizer.bytes
    assert [figure["value"] for figure in card["quality"]] == [figure.value for figure in entry.quality]
    assert server.get("/v1/models/tiny:2x16").json == cards["tiny:2x16"]
    assert server.get("/v1/models/nothing").status == 404


def test_the_real_client_of_openai(server: Running, tiny_bundle: Bundle) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    expected = Encoder.open(tiny_bundle, "3x16").encode(TEXTS)
    answer = client.embeddings.create(model="tiny", input=TEXTS, dimensions=16)
    assert np.abs(np.array([row.embedding for row in answer.data]) - expected).max() <= 1e-6
    numbers = client.embeddings.create(model="tiny", input=TEXTS, dimensions=16, encoding_format="float")
    assert np.abs(np.array([row.embedding for row in numbers.data]) - expected).max() <= 1e-6
    small = client.embeddings.create(model="tiny:3x16", input="a", extra_body={"precision": "int8"})
    assert all(isinstance(value, int) or float(value).is_integer() for value in small.data[0].embedding)
    assert next(card.id for card in client.models.list()) == "tiny"
    with pytest.raises(openai.BadRequestError, match="Targets: 1x8"):
        client.embeddings.create(model="tiny", input="a", dimensions=12)


def test_clients_at_once_get_their_own_vectors(server: Running, tiny_bundle: Bundle) -> None:
    failures: list[str] = []
    encoders = {target: Encoder.open(tiny_bundle, target, threads=1) for target in TARGETS}

    def client(number: int) -> None:
        for turn in range(6):
            target = TARGETS[(number + turn) % len(TARGETS)]
            texts = [f"client {number} turn {turn} text {i} " + "word " * (i * 7 % 30) for i in range(number % 5 + 1)]
            found = vectors(server.embed(model=f"tiny:{target}", input=texts))
            if np.abs(found - encoders[target].encode(texts)).max() > 1e-6:
                failures.append(f"{number} {turn}")

    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_depth_0_is_served_in_numpy_and_searches_the_index_of_full_depth(projected_bundle: Bundle) -> None:
    with running(ServeSettings({"tiny": projected_bundle.path})) as server:
        reply = server.embed(model="tiny:0x16", input=TEXTS)
        assert np.abs(vectors(reply) - Encoder.open(projected_bundle, "0x16").encode(TEXTS)).max() <= 1e-6
        by_depth = server.embed(input=TEXTS, depth=0, dimensions=16)
        assert by_depth.json["model"] == "tiny:0x16"
        models = server.get("/v1/models").json["data"]
    spaces = {model["id"]: model["space"] for model in models}
    assert spaces["tiny:0x32"] == spaces["tiny:3x32"]
