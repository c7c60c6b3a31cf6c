import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ese_deploy.bundle import Bundle
from ese_deploy.engines import load_engine
from ese_deploy.errors import EngineError, InputError
from ese_deploy.runtime import Encoder
from ese_deploy.runtime import encoder as encoder_module
from ese_deploy.texts import collection

TEXTS = [item.text for item in collection() if len(item.text) < 100][:100]


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
    monkeypatch.setattr(encoder_module, "_WINDOW", 7)
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
    with pytest.raises(InputError, match="no prompt 'title'; it has: query"):
        encoder.encode("a", prompt_name="title")


@pytest.mark.parametrize("bad", [[1], ["a", None], [b"a"]])
def test_what_is_no_text_is_named_with_its_position(encoder: Encoder, bad: list[object]) -> None:
    with pytest.raises(InputError, match=f"at position {len(bad) - 1}"):
        encoder.encode(bad)  # type: ignore[arg-type]


def test_limits_below_one_are_refused(encoder: Encoder, tiny_bundle: Bundle) -> None:
    with pytest.raises(InputError, match="at least 1, got 0"):
        encoder.encode("a", batch_size=0)
    with pytest.raises(InputError, match="threads must be at least 1, got 0"):
        Encoder.open(tiny_bundle, threads=0)


def test_over_long_texts_are_cut_counted_and_warned_of_once(tiny_bundle: Bundle) -> None:
    encoder = Encoder.open(tiny_bundle)
    long = "word " * 100
    with pytest.warns(UserWarning, match="longer than 48 tokens and are cut"):
        vectors = encoder.encode([long, "short", long + "more"])
    assert encoder.truncated_texts == 2
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(long)
    assert encoder.truncated_texts == 3


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
    with pytest.raises(InputError, match=r"have the shape \[n, 32\], got \[1, 16\]"):
        encoder.similarity(encoder.encode("a"), deep.encode("a"))
    with pytest.raises(InputError, match=r"space exit02.*space exit03.*cannot be compared"):
        shallow.similarity(shallow.encode("a"), deep.encode("a"), second_encoder=deep)


def test_a_prefix_of_a_wider_target_is_the_narrow_target(tiny_bundle: Bundle, encoder: Encoder) -> None:
    narrow = Encoder.open(tiny_bundle, "3x16")
    assert narrow.space == encoder.space
    prefix = encoder.encode(TEXTS)[:, :16]
    prefix /= np.linalg.norm(prefix, axis=1, keepdims=True)
    np.testing.assert_allclose(narrow.encode(TEXTS), prefix, atol=2e-6)


def test_an_unknown_engine_lists_those_there_are(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no engine 'magic'; choose one of onnxruntime"):
        Encoder.open(tiny_bundle, engine="magic")


def test_an_engine_that_is_too_old_says_which_it_needs(tiny_bundle: Bundle) -> None:
    engine = load_engine("onnxruntime")
    engine.versions = {"onnxruntime": "1.9.0"}  # type: ignore[misc]
    with pytest.raises(EngineError, match=r"needs ONNX Runtime 1.23.0 or newer, installed is 1.9.0; pip install"):
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
