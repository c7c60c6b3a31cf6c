"""Every kind of tokenizer: the one file of the bundle gives the ids that the checkpoint's own tokenizer gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.tiny import edit_json, make_checkpoint, wordpiece_tokenizer
from helpers.tokenizers import (
    added_tokens,
    byte_level_bpe,
    byte_level_bpe_with_end,
    roberta_bpe,
    sentencepiece_bpe,
    unigram,
    without_special_tokens,
)
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ese_deploy.backbones.tokenizer import read_tokenizer
from ese_deploy.bench.measure import texts_of
from ese_deploy.errors import InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify.texts import EDGE_CASE_TEXTS

MAX_LENGTH = 40
TEXTS = [*EDGE_CASE_TEXTS, *(item.text for item in sample_corpus()[::16])]


KINDS: list[Callable[[], PreTrainedTokenizerFast]] = [
    wordpiece_tokenizer,
    added_tokens,
    without_special_tokens,
    byte_level_bpe,
    byte_level_bpe_with_end,
    roberta_bpe,
    unigram,
    sentencepiece_bpe,
]


def _save(loaded: PreTrainedTokenizerFast, folder: Path) -> Path:
    loaded.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf-8")
    return folder


def _ids(folder: Path, texts: list[str] = TEXTS, lower_case: bool = False) -> list[list[int]]:
    written = Tokenizer.from_str(read_tokenizer(folder, lower_case).to_json(MAX_LENGTH).decode())
    written.no_padding()
    return [encoding.ids for encoding in written.encode_batch(texts)]


def _own_ids(folder: Path, texts: list[str]) -> list[list[int]]:
    own = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return [own(text, truncation=True, max_length=MAX_LENGTH)["input_ids"] for text in texts]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("lower_case", [False, True], ids=["as written", "lower-cased"])
def test_the_written_file_gives_the_checkpoints_ids(
    kind: Callable[[], PreTrainedTokenizerFast], lower_case: bool, tmp_path: Path
) -> None:
    folder = _save(kind(), tmp_path)
    # Special tokens that a text spells out are found before it is lower-cased, as in sentence-transformers.
    texts = [text for text in TEXTS if not (lower_case and "[CLS]" in text)]
    expected = _own_ids(folder, [text.lower() for text in texts] if lower_case else texts)
    assert _ids(folder, texts, lower_case) == expected


def test_older_forms_of_the_file_are_read(tmp_path: Path) -> None:
    # Merges were strings before they were pairs, and Metaspace had a flag before it had a scheme.
    new, old = _save(byte_level_bpe(), tmp_path / "new"), tmp_path / "old"
    shutil.copytree(new, old)
    content = json.loads((old / "tokenizer.json").read_text("utf-8"))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (old / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert _ids(old) == _ids(new)
    new, old = _save(unigram(), tmp_path / "new2"), tmp_path / "old2"
    shutil.copytree(new, old)
    space = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    edit_json(old / "tokenizer.json", pre_tokenizer=space)
    assert _ids(old) == _ids(new)


def test_a_vocabulary_without_a_fast_tokenizer_is_converted(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), "utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    assert _ids(folder) == _own_ids(folder, TEXTS)
    assert len({tuple(ids) for ids in _ids(folder)}) > len(TEXTS) // 2


def test_a_tokenizer_that_cannot_be_converted_is_refused_saying_how(tmp_path: Path) -> None:
    # Its words are cut by a Python library that no tokenizer.json can call.
    (tmp_path / "vocab.json").write_text(json.dumps({"<unk>": 0, "a": 1}), "utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "ctrl"}), "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}), "utf-8")
    with pytest.raises(InputError, match=r"CTRLTokenizer.*tokenizer\.json.*save_pretrained"):
        read_tokenizer(tmp_path, False)


def test_a_text_is_cut_on_the_side_that_the_checkpoint_cuts_on(tmp_path: Path) -> None:
    tokenizer = wordpiece_tokenizer(truncation_side="left")
    checkpoint = make_checkpoint(tmp_path / "left", tokenizer=tokenizer)
    bundle = export_bundle(ExportRequest(str(checkpoint), tmp_path / "bundle", [Target(3, 16)])).bundle
    text = " ".join(item.text for item in sample_corpus()[:8])
    loaded = load_tokenizer(bundle)
    expected = tokenizer(text, truncation=True, max_length=loaded.max_length)["input_ids"]
    assert loaded([text]).encodings[0].ids == expected
    assert expected[1:-1] == tokenizer(text, add_special_tokens=False)["input_ids"][2 - loaded.max_length :]


@pytest.mark.slow
def test_a_model_without_special_tokens_is_timed_too(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "plain", tokenizer=without_special_tokens())
    bundle = export_bundle(ExportRequest(str(checkpoint), tmp_path / "bundle", [Target(3, 16)])).bundle
    for tokens in (1, 8):
        assert load_tokenizer(bundle)(texts_of(bundle, tokens, 1)).lengths.tolist() == [tokens]
    with pytest.raises(InputError, match="accepts 1 to 48"):
        texts_of(bundle, 0, 1)
