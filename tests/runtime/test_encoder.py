import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ese_deploy.bundle.ranges import load_ranges
from ese_deploy.bundle.reader import Bundle
from ese_deploy.engines import load_engine
from ese_deploy.errors import EngineError, InputError
from ese_deploy.runtime import Encoder, embedding, tokenize
from ese_deploy.runtime.precision import quantize
from ese_deploy.texts.sample import sample_corpus

TEXTS = [item.text for item in sample_corpus() if len(item.text) < 100][:100]


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Bundle) -> Encoder:
    return Encoder.open(tiny_bundle)


def test_several_texts_give_rows_of_norm_1_in_the_order_given(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    np.testing.assert_allclose(vectors, alone, atol=2e-6)


def test_one_text_gives_one_vector(encoder: Encoder) -> None:
    assert encoder.encode("A cat sat.").shape == (32,)


def test_no_texts_give_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, 32)


def test_windows_join_without_a_seam(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoder.encode(TEXTS)
    monkeypatch.setattr(embedding, "_WINDOW", 7)
    np.testing.assert_allclose(encoder.encode(TEXTS), whole, atol=2e-6)


def test_a_stream_is_read_a_window_at_a_time(encoder: Encoder) -> None:
    read = 0

    def stream() -> object:
        nonlocal read
        for text in TEXTS:
            read += 1
            yield text

    vectors = encoder.encode_iter(stream(), window=10)  # type: ignore[arg-type]
    first = next(vectors)
    assert read == 10
    np.testing.assert_allclose(np.stack([first, *vectors]), encoder.encode(TEXTS), atol=2e-6)


def test_prompts_are_put_before_the_text(encoder: Encoder) -> None:
    expected = encoder.encode("find: a cat")
    np.testing.assert_array_equal(encoder.encode("a cat", prompt_name="query"), expected)
    np.testing.assert_array_equal(encoder.encode("a cat", prompt="find: "), expected)
    np.testing.assert_array_equal(encoder.encode_query("a cat"), expected)
    np.testing.assert_array_equal(encoder.encode_query("a cat", prompt=""), encoder.encode("a cat"))
    np.testing.assert_array_equal(encoder.encode_document("a cat"), encoder.encode("a cat"))


def test_an_unknown_prompt_lists_those_there_are(encoder: Encoder) -> None:
    with pytest.raises(InputError, match=r"no prompt 'title'\. Its prompts: query"):
        encoder.encode("a", prompt_name="title")


@pytest.mark.parametrize("bad", [[1], ["a", None], [b"a"], ["a", "é", "b\ud800c"]])
def test_what_is_no_text_is_named_with_its_position(encoder: Encoder, bad: list[object]) -> None:
    with pytest.raises(InputError, match=f"at position {len(bad) - 1}"):
        encoder.encode(bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"at position {len(bad) + 3}"):
        list(encoder.encode_iter([*"abcd", *bad], window=4))  # type: ignore[list-item]


@pytest.mark.parametrize("bad", [None, 5])
def test_what_holds_no_texts_is_refused(encoder: Encoder, bad: object) -> None:
    for embed in (encoder.encode, encoder.encode_query, encoder.encode_iter):
        with pytest.raises(InputError, match=f"of str, got {type(bad).__name__}"):
            embed(bad)


def test_a_stream_of_one_text_or_of_no_window_is_refused_at_once(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="takes an iterable of texts, got one text"):
        encoder.encode_iter("abc")
    for window in (0, -1):
        with pytest.raises(InputError, match=f"`window` must be at least 1, got {window}"):
            encoder.encode_iter(["a"], window=window)


def test_limits_below_one_are_refused(encoder: Encoder, tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="at least 1, got 0"):
        encoder.encode("a", batch_size=0)
    with pytest.raises(InputError, match="`threads` must be at least 1, got 0"):
        Encoder.open(tiny_bundle, threads=0)


def test_truncated_texts_are_counted_and_logged_once(tiny_bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.open(tiny_bundle)
    long = "word " * 100
    vectors = encoder.encode([long, "short", long + "more"])
    assert encoder.truncated_texts == 2
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    encoder.encode(long)
    assert encoder.truncated_texts == 3
    silent = Encoder.open(tiny_bundle, log_truncated=False)
    silent.encode(long)
    assert silent.truncated_texts == 1
    (record,) = caplog.records
    assert (record.name.partition(".")[0], record.levelname) == ("ese_deploy", "WARNING")
    assert "Texts longer than 48 tokens are truncated" in record.getMessage()


def test_the_repr_is_short(tiny_bundle: Bundle, aligned_bundle: Bundle) -> None:
    path = str(tiny_bundle.path)
    assert repr(Encoder.open(tiny_bundle, "2x16")) == f"Encoder({path!r}, target='2x16', engine='onnxruntime')"
    both = Encoder.open(aligned_bundle, query_target="2x16", document_target="3x16")
    assert "target='3x16', query_target='2x16'" in repr(both)


def test_long_texts_are_tokenised_few_at_a_time_and_what_is_cut_off_is_not_kept(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Recorder:
        def encode_batch_fast(self, texts: list[str]) -> list[Any]:
            pieces.append(texts)
            return own.tokenizer.encode_batch_fast(texts)

    pieces: list[list[str]] = []
    own = encoder._tokenizer
    texts = ["long " * 100, "a", "word " * 50, "b", "c", "long " * 100, "word " * 60]
    monkeypatch.setattr(tokenize, "_PIECE", 300)
    tokens = dataclasses.replace(own, tokenizer=Recorder())(texts)
    assert pieces == [texts[:1], texts[1:5], texts[5:6], texts[6:]]
    expected = own.tokenizer.encode_batch_fast(texts)
    assert tokens.truncated == sum(bool(encoding.overflowing) for encoding in expected) == 4
    assert not any(getattr(encoding, "overflowing", None) for encoding in tokens.encodings)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    for name, array in own.collate(expected, names).items():
        np.testing.assert_array_equal(own.collate(tokens.encodings, names)[name], array)


def test_many_threads_get_their_own_vectors(tiny_bundle: Bundle) -> None:
    encoder = Encoder.open(tiny_bundle, threads=1)
    expected = encoder.encode(TEXTS)
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        start.wait()
        for _ in range(5):
            part = slice(worker * 10, worker * 10 + 20)
            np.testing.assert_allclose(encoder.encode(TEXTS[part]), expected[part], atol=2e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_similarity_is_the_cosine(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS[:5])
    np.testing.assert_allclose(encoder.similarity(vectors[:2] * 3, vectors), vectors[:2] @ vectors.T, atol=1e-6)
    assert encoder.similarity(vectors[0], vectors[1]).shape == (1, 1)


def test_similarity_refuses_vectors_of_another_target(tiny_bundle: Bundle, encoder: Encoder) -> None:
    shallow = Encoder.open(tiny_bundle, "2x16")
    deep = Encoder.open(tiny_bundle, "3x16")
    with pytest.raises(InputError, match=r"of 32 and of 16 dimensions are not comparable"):
        encoder.similarity(encoder.encode("a"), deep.encode("a"))
    with pytest.raises(InputError, match=r"have the shape \[n, 16\], got \[1, 32\]"):
        deep.similarity(encoder.encode("a"), encoder.encode("a"))
    with pytest.raises(InputError, match=r"space exit02.*space exit03.*not comparable"):
        shallow.similarity(shallow.encode("a"), deep.encode("a"), second_encoder=deep)


def test_queries_and_documents_may_have_targets_of_their_own(aligned_bundle: Bundle) -> None:
    shallow, deep = Encoder.open(aligned_bundle, "2x16"), Encoder.open(aligned_bundle, "3x16")
    both = Encoder.open(aligned_bundle, query_target="2x16", document_target="3x16")
    np.testing.assert_array_equal(both.encode_query(TEXTS), shallow.encode_query(TEXTS))
    np.testing.assert_array_equal(both.encode_document(TEXTS), deep.encode_document(TEXTS))
    np.testing.assert_array_equal(both.encode(TEXTS), deep.encode(TEXTS))
    np.testing.assert_array_equal(np.stack(list(both.encode_iter(TEXTS))), deep.encode(TEXTS))
    assert (str(both.query_target), str(both.target), both.dim, both.space) == ("2x16", "3x16", 16, "aligned")
    query, index = both.encode_query(TEXTS[:2]), both.encode_document(TEXTS)
    np.testing.assert_allclose(both.similarity(query, index), query @ index.T, atol=1e-6)
    np.testing.assert_allclose(shallow.similarity(query, index, second_encoder=deep), query @ index.T, atol=1e-6)


def test_quantised_queries_lie_between_the_numbers_of_the_documents(aligned_bundle: Bundle) -> None:
    both = Encoder.open(aligned_bundle, query_target="2x16", document_target="3x16")
    entry = next(entry for entry in aligned_bundle.manifest.targets if str(entry.target) == "3x16")
    wanted = quantize(both.encode_query(TEXTS), "int8", load_ranges(aligned_bundle, entry))
    np.testing.assert_array_equal(both.encode_query(TEXTS, precision="int8"), wanted)
    assert (wanted != Encoder.open(aligned_bundle, "2x16").encode_query(TEXTS, precision="int8")).any()


def test_two_targets_load_two_graphs_and_one_target_named_twice_loads_one(
    aligned_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine("onnxruntime")
    loads: list[int] = []
    load = type(engine).load
    monkeypatch.setattr(type(engine), "load", lambda *arguments: loads.append(1) or load(*arguments))
    Encoder.open(aligned_bundle, query_target="2x16", document_target="3x16")
    assert len(loads) == 2
    Encoder.open(aligned_bundle, query_target="3x16", document_target="3x16")
    assert len(loads) == 3


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            {"query_target": "1x16", "document_target": "3x16"},
            r"1x16 \(embedding space exit01\) cannot be compared with documents of target 3x16 \(embedding ",
        ),
        (
            {"query_target": "2x16", "document_target": "3x32"},
            "Queries of target 2x16 have 16 dimensions, documents of target 3x32 have 32. Choose two targets",
        ),
        ({"query_target": "2x32", "document_target": "3x32"}, "holds no target 2x32; it holds 1x16, 2x16, 3x16, 3x32"),
        ({"query_target": "2x16"}, "`document_target` together, without `target`. Got `query_target=2x16`"),
        (
            {"target": "3x16", "query_target": "2x16", "document_target": "3x16"},
            "without `target`. Got `target=3x16` and `query_target=2x16` and `document_target=3x16`",
        ),
        ({"profile": "edge"}, r"takes no profile, got 'edge'\. Resolve it first: found = ese_deploy\.choose\."),
    ],
)
def test_two_targets_that_do_not_go_together_are_refused_in_one_line(
    aligned_bundle: Bundle, named: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Encoder.open(aligned_bundle, **named)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_prefix_of_a_wider_target_is_the_narrow_target(tiny_bundle: Bundle, encoder: Encoder) -> None:
    narrow = Encoder.open(tiny_bundle, "3x16")
    assert narrow.space == encoder.space
    prefix = encoder.encode(TEXTS)[:, :16]
    prefix /= np.linalg.norm(prefix, axis=1, keepdims=True)
    np.testing.assert_allclose(narrow.encode(TEXTS), prefix, atol=2e-6)


def test_an_unknown_engine_lists_those_there_are(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"Unknown engine 'magic'\. Choose one of: onnxruntime"):
        Encoder.open(tiny_bundle, engine="magic")


def test_an_engine_that_is_too_old_says_which_it_needs(tiny_bundle: Bundle) -> None:
    engine = load_engine("onnxruntime")
    engine.versions = {"onnxruntime": "1.9.0"}  # type: ignore[misc]
    with pytest.raises(EngineError, match=r"needs ONNX Runtime 1\.23\.0 or newer, and 1\.9\.0 is installed\."):
        Encoder.open(tiny_bundle, engine=engine)


def test_a_progress_bar_is_shown_on_request(encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    encoder.encode(TEXTS, show_progress_bar=True)
    assert f"{len(TEXTS)}/{len(TEXTS)}" in capsys.readouterr().err
    encoder.encode(TEXTS)
    assert capsys.readouterr().err == ""


def test_a_path_opens_as_a_bundle_does(tiny_bundle: Bundle, encoder: Encoder) -> None:
    by_path = Encoder.open(str(Path(tiny_bundle.path)), "3x32", threads=1)
    assert by_path.target == encoder.target
    assert (by_path.dim, by_path.max_seq_length, by_path.prompts) == (32, 48, {"query": "find: "})


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [*((scale, np.float32) for scale in (1e-38, 1e-20, 1.0, 1e20, 3e38)), (1e-300, np.float64), (1e300, np.float64)],
)
def test_similarity_does_not_depend_on_the_scale(tiny_bundle: Bundle, scale: float, dtype: type[np.floating]) -> None:
    encoder = Encoder.open(tiny_bundle, "3x16")
    vectors = encoder.encode(["a cat sat", "hello there"])
    expected = encoder.similarity(vectors, vectors)
    found = encoder.similarity((vectors.astype(np.float64) * scale).astype(dtype), vectors)
    np.testing.assert_allclose(found, expected, atol=1e-5)
