"""Every kind of tokenizer: the one file of the bundle gives the ids that the checkpoint's own tokenizer gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.tiny import edit_json, make_checkpoint, wordpiece_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ese_deploy.backbones.tokenizer import read_tokenizer
from ese_deploy.bench.measure import text_of
from ese_deploy.errors import InputError
from ese_deploy.export import ExportRequest, export_bundle
from ese_deploy.runtime.tokenize import load_tokenizer
from ese_deploy.target import Target
from ese_deploy.texts.sample import sample_corpus
from ese_deploy.verify.texts import NASTY

MAX_LENGTH = 40
TEXTS = [*NASTY, *(item.text for item in sample_corpus()[::16])]


def _train(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator((item.text for item in sample_corpus()), trainer)
    return tokenizer


def byte_level_bpe(**settings: str) -> PreTrainedTokenizerFast:
    """As in Qwen and GPT-2: bytes, no unknown token, and no special token around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|end|>", eos_token="<|end|>", **settings)


def byte_level_bpe_with_end() -> PreTrainedTokenizerFast:
    """As in Qwen3-Embedding: an end token closes each text, and padding is on the left."""
    loaded = byte_level_bpe(padding_side="left")
    end = ("<|end|>", loaded.convert_tokens_to_ids("<|end|>"))
    loaded.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="$A <|end|>", pair="$A <|end|> $B <|end|>", special_tokens=[end]),
        ]
    )
    return loaded


def roberta_bpe() -> PreTrainedTokenizerFast:
    """As in RoBERTa: bytes, with a start and an end token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    _train(tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return _special(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    """As in XLM-RoBERTa and T5: SentencePiece's unigram model, blanks folded and shown as an underscore."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    _train(tokenizer, trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _special(tokenizer)


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """As in Llama and Gemma: SentencePiece's BPE, unknown characters as bytes, a start token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    _train(tokenizer, trainers.BpeTrainer(vocab_size=900, special_tokens=special[:4], initial_alphabet=["▁"]))
    vocabulary = json.loads(tokenizer.to_str())
    model = vocabulary["model"]
    size = len(model["vocab"])
    model["vocab"].update({byte: size + place for place, byte in enumerate(special[4:])})
    tokenizer = Tokenizer.from_str(json.dumps(vocabulary))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def added_tokens() -> PreTrainedTokenizerFast:
    """WordPiece with tokens that were added later, some of which take the blanks beside them."""
    loaded = wordpiece_tokenizer()
    loaded.add_tokens([AddedToken("snake::case", lstrip=True, rstrip=True), AddedToken("°C", single_word=True)])
    loaded.add_special_tokens({"additional_special_tokens": ["[QUERY]", "<s>"]})
    return loaded


def without_special_tokens() -> PreTrainedTokenizerFast:
    loaded = wordpiece_tokenizer()
    loaded.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return loaded


def _special(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>", "cls_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token="<mask>", **names)


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


def test_a_model_without_special_tokens_is_timed_too(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "plain", tokenizer=without_special_tokens())
    bundle = export_bundle(ExportRequest(str(checkpoint), tmp_path / "bundle", [Target(3, 16)])).bundle
    for tokens in (1, 8):
        assert load_tokenizer(bundle)([text_of(bundle, tokens)]).lengths.tolist() == [tokens]
    with pytest.raises(InputError, match="takes 1 to 48"):
        text_of(bundle, 0)
