"""Longer texts taken apart."""

from pathlib import Path

import pytest

from ese_deploy.texts.sentences import sentence_groups, with_sentence_groups
from ese_deploy.training.data import add_spans, load_formats

PASSAGE = "Cells divide in two. Each one keeps a copy. Errors are rare! Are they mended? Most of them are."


def test_a_passage_has_its_sentences_halves_and_thirds() -> None:
    assert sentence_groups(PASSAGE) == [
        "Cells divide in two.",
        "Each one keeps a copy.",
        "Errors are rare!",
        "Are they mended?",
        "Most of them are.",
        "Cells divide in two. Each one keeps a copy.",
        "Errors are rare! Are they mended?",
        "Cells divide in two. Each one keeps a copy. Errors are rare!",
        "Are they mended? Most of them are.",
    ]


@pytest.mark.parametrize(
    "text", ["", " ", "One sentence, however long it is, has no parts.", "One here. Two of them there."]
)
def test_short_texts_have_no_parts(text: str) -> None:
    assert sentence_groups(text) == []


def test_sentences_end_without_blanks_where_a_script_has_none() -> None:
    sentences = [
        "細胞は二つに分かれてそれぞれが写しを持ちます。",
        "間違いが起こることはとてもまれなことです。",
        "そのほとんどはあとで直されるのでしょうか？",
    ]
    groups = sentence_groups("".join(sentences))
    assert all(part in "".join(sentences) for part in groups)
    assert [part for part in groups if part.count("。") + part.count("？") == 1] == sentences


def test_parts_lie_within_their_text_and_stand_once() -> None:
    text = " ".join(f"Sentence number {number % 5} says a thing." for number in range(12))
    parts = sentence_groups(f" {text}\n")
    assert len(set(parts)) == len(parts) and all(part in text and part != text for part in parts)
    assert list(with_sentence_groups([text, "short"])) == [text, *parts, "short"]


def test_training_takes_plain_texts_apart_and_leaves_labelled_ones(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text(f"{PASSAGE}\nCells divide in two.\n", "utf-8")
    (tmp_path / "pairs.tsv").write_text(f"query\tpositive\nwhat\t{PASSAGE}\n", "utf-8")
    texts, pairs = map(add_spans, load_formats([str(tmp_path / "texts.txt"), str(tmp_path / "pairs.tsv")]))
    assert list(texts.dataset["text"]) == [PASSAGE, *sentence_groups(PASSAGE)]
    assert texts.description[-1] == "With sentences, halves and thirds: 10 different texts."
    assert len(pairs.dataset) == 1
