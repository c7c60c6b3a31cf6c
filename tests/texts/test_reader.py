"""Texts from every kind of file; rows of tables are in tests/evaluate/test_data.py."""

import gzip
from pathlib import Path

import pytest

from ese_deploy.errors import InputError
from ese_deploy.texts import TextRow, chunks, open_texts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\ntwo, three\n"),
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two, three"}\n'),
        ("a.tsv", "id\ttext\n1\tone\n2\ttwo, three\n"),
        ("a.csv", 'text\none\n"two, three"\n'),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, name: str, content: str, suffix: str) -> None:
    path = tmp_path / (name + suffix)
    path.write_bytes(gzip.compress(content.encode()) if suffix else content.encode())
    texts = open_texts(path, "text")
    assert texts.check() == 2
    assert [row.text for row in texts] == [row.text for row in texts] == ["one", "two, three"]


def test_rows_keep_their_fields(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("id\tbody\n7\tone\n")
    assert list(open_texts(tmp_path / "a.tsv", "body")) == [TextRow("one", {"id": "7", "body": "one"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "body\nx\n", r"a\.csv line 2 has no 'text'; it has body\. Name the field with --text-field"),
        ("a.jsonl", '{"text": 3}\n', r"a\.jsonl line 1 has int as 'text', which must be a string"),
        ("a.txt", "", r"a\.txt contains no text"),
    ],
)
def test_a_file_without_texts_is_refused_with_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        open_texts(tmp_path / name, "text").check()


def test_a_stream_is_cut_into_lists() -> None:
    rows = [TextRow(str(number), {}) for number in range(5)]
    assert [len(chunk) for chunk in chunks(rows, 2)] == [2, 2, 1]
