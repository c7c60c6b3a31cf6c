"""The options that ``encode`` shares with sentence-transformers, prefixes of one session, and usage."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError
from ese_deploy.runtime import EncodeOptions, Encoder, Usage
from ese_deploy.runtime.base import BaseEncoder
from ese_deploy.texts.sample import sample_corpus

TEXTS = [item.text for item in sample_corpus() if len(item.text) < 100][:30]


@pytest.fixture(scope="module")
def encoder(tiny_bundle: Bundle) -> Encoder:
    return Encoder.open(tiny_bundle)


@pytest.mark.parametrize("option", ["dim", "truncate_dim"])
def test_one_session_serves_every_prefix(tiny_bundle: Bundle, encoder: Encoder, option: Any) -> None:
    narrow = Encoder.open(tiny_bundle, "3x16").encode(TEXTS)
    np.testing.assert_allclose(encoder.encode(TEXTS, **{option: 16}), narrow, atol=1e-6)
    np.testing.assert_allclose(np.stack(list(encoder.encode_iter(TEXTS, **{option: 16}))), narrow, atol=1e-6)
    one = encoder.encode_query("a", **{option: 7})
    assert one.shape == (7,) and abs(np.linalg.norm(one) - 1) < 1e-6


def test_a_prefix_is_scaled_unless_the_caller_declines(encoder: Encoder) -> None:
    whole = encoder.encode(TEXTS)
    np.testing.assert_array_equal(encoder.encode(TEXTS, dim=16, normalize_embeddings=False), whole[:, :16])
    np.testing.assert_array_equal(encoder.encode(TEXTS, dim=32), whole)
    np.testing.assert_array_equal(encoder.encode(TEXTS, normalize_embeddings=False), whole)


@pytest.mark.parametrize("precision", ["int8", "uint8", "ubinary"])
def test_a_quantised_prefix_has_the_ranges_of_its_own_target(
    tiny_bundle: Bundle, encoder: Encoder, precision: Any
) -> None:
    narrow = Encoder.open(tiny_bundle, "3x16").encode(TEXTS, precision=precision)
    found = encoder.encode(TEXTS, dim=16, precision=precision)
    assert found.dtype == narrow.dtype
    # A component that lies on a step may round to either side.
    differing = np.unpackbits(found ^ narrow).sum() if precision == "ubinary" else (found != narrow).sum()
    assert differing <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be between 1 and 32, the dimensions of the target, got 0"),
        ({"truncate_dim": 33}, "`dim` must be between 1 and 32, the dimensions of the target, got 33"),
        ({"dim": 8, "truncate_dim": 16}, "`dim` and `truncate_dim` mean the same, got 8 and 16"),
        ({"dim": 8, "precision": "int8"}, "holds no target 3x8"),
        ({"dim": 16, "precision": "int8", "normalize_embeddings": False}, "needs prefixes of norm 1"),
    ],
)
def test_prefixes_that_cannot_be_given_are_refused(encoder: Encoder, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode("a", **options)


def test_similarity_takes_prefixes(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS, dim=16)
    np.testing.assert_allclose(encoder.similarity(vectors, vectors), vectors @ vectors.T, atol=1e-6)


def test_tensors_on_request(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS)
    tensor = encoder.encode(TEXTS, convert_to_tensor=True, convert_to_numpy=False)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), vectors)
    rows: Any = encoder.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list) and torch.equal(torch.stack(rows), tensor)
    one = encoder.encode(TEXTS[0], convert_to_tensor=True)
    assert isinstance(one, torch.Tensor) and one.shape == (32,)
    assert isinstance(encoder.encode(TEXTS[0], convert_to_numpy=False), torch.Tensor)
    np.testing.assert_allclose(encoder.similarity(tensor, tensor), vectors @ vectors.T, atol=1e-6)


def test_tensors_without_torch_name_it(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="pip install torch"):
        encoder.encode("a", convert_to_tensor=True)


def test_usage_counts_what_one_call_read(tiny_bundle: Bundle) -> None:
    encoder = Encoder.open(tiny_bundle, log_truncated=False)
    vectors, usage = encoder.encode(["a", "a a a", "word " * 100], return_usage=True)
    assert usage == Usage(texts=3, tokens=3 + 5 + 48, truncated=1)
    np.testing.assert_array_equal(vectors, encoder.encode(["a", "a a a", "word " * 100]))
    _, prompted = encoder.encode_query("a", return_usage=True)
    assert prompted.tokens == encoder.tokenize("find: a")["input_ids"].size > 3
    _, none = encoder.encode_document([], return_usage=True)
    assert none == Usage(0, 0, 0)


def test_an_unknown_option_lists_the_others(encoder: Encoder) -> None:
    with pytest.raises(TypeError, match=r"Unknown option .normalise.\. Choose from: prompt_name, prompt, batch_size,"):
        encoder.encode("a", normalise=True)  # type: ignore[call-overload]


def test_every_option_is_documented() -> None:
    text = BaseEncoder.encode.__doc__ or ""
    assert [name for name in EncodeOptions.__annotations__ if f"``{name}``" not in text] == []


def test_tokens_are_the_inputs_of_the_graph(encoder: Encoder) -> None:
    tokens = encoder.tokenize(["a", "word " * 100])
    assert {"input_ids", "attention_mask"} <= set(tokens)
    assert tokens["input_ids"].shape == (2, encoder.max_seq_length)
    np.testing.assert_array_equal(tokens["attention_mask"].sum(1), [3, 48])
    with pytest.raises(InputError, match="at least one text"):
        encoder.tokenize([])


def test_the_dimension_has_the_name_that_sentence_transformers_gives_it(encoder: Encoder) -> None:
    assert encoder.get_sentence_embedding_dimension() == encoder.dim == 32
