import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.hostile import forge
from helpers.tokenizers import byte_level_bpe, byte_level_bpe_with_end, roberta_bpe, unigram
from transformers import PreTrainedTokenizerFast

from ese_deploy.bundle.reader import Bundle
from ese_deploy.bundle.tokenizer_check import check_tokenizer
from ese_deploy.errors import BundleError
from ese_deploy.runtime import Encoder

REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "growth": ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 8}}, "100000000 times as long"),
    "charsmap": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "cut off"),
    "length 0": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "pieces of 0 characters"),
    "nested repeat": ({"pre_tokenizer": _split(r"(\w+\s?)*$")}, "can search for ever"),
    "choice": ({"pre_tokenizer": _split("(a|aa)+$")}, "can search for ever"),
    "deep repeat": ({"pre_tokenizer": _split("((a*)x)*")}, "can search for ever"),
    "many repeats": ({"pre_tokenizer": _split("a*a*a*a*a*b")}, "can search for ever"),
    "backreference": ({"pre_tokenizer": _split(r"(a)\1")}, "not allowed"),
    "unknown": ({"pre_tokenizer": {"type": "Evil"}}, "pre-tokenizer 'Evil'"),
    "no vocabulary": ({"model": {"type": "WordPiece", "vocab": {}}}, "vocabulary is empty"),
    "negative id": ({"model": {"type": "WordPiece", "vocab": {"[UNK]": -1}}}, "model.vocab"),
    "one id twice": ({"model": {"type": "WordPiece", "vocab": {"[UNK]": 1, "a": 1}}}, "one id for two tokens"),
    "no unknown token": ({"model": {"type": "WordPiece", "vocab": {"a": 1}}}, "unknown token"),
    "dropout": ({"model": {"type": "BPE", "vocab": {"a": 1}, "merges": [], "dropout": 0.1}}, "dropout"),
    "further key": ({"evil": 1}, "evil"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_no_export_writes_is_refused(name: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    changes, message = CASES[name]
    stated = json.loads((tiny_bundle.path / "tokenizer.json").read_text("utf-8"))
    data = json.dumps({**stated, **changes}).encode()
    with pytest.raises(BundleError, match=message):
        check_tokenizer(data)
    bundle = forge(tiny_bundle.path, tmp_path / "b", {"tokenizer.json": data})
    with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer that an export writes"):
        Encoder.open(bundle, "1x8")


@pytest.mark.parametrize("make", [byte_level_bpe, byte_level_bpe_with_end, roberta_bpe, unigram])
def test_tokenizers_of_every_kind_pass(make: Callable[[], PreTrainedTokenizerFast]) -> None:
    loaded = make()
    assert check_tokenizer(loaded.backend_tokenizer.to_str().encode()) < len(loaded) + 1


def test_a_published_pattern_passes(tiny_bundle: Bundle) -> None:
    stated = json.loads((tiny_bundle.path / "tokenizer.json").read_text("utf-8"))
    assert check_tokenizer(json.dumps({**stated, "pre_tokenizer": _split(LLAMA_3)}).encode()) == 599
