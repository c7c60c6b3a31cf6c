"""Rows of every kind of input: texts, ids and kept fields, and what is wrong with a row."""

import gzip
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ese_deploy.errors import InputError
from ese_deploy.texts.fields import Fields, parse_template
from ese_deploy.texts.inputs import find_inputs
from ese_deploy.texts.lines import Problem
from ese_deploy.texts.reader import read_rows
from ese_deploy.texts.source import SourceRow, TextSource

ROWS = [{"id": 1, "title": "One", "text": "first\nline"}, {"id": 2, "title": "Two", "text": "Größe, 25 °C"}]
CSV = 'id,title,text\n1,One,"first\nline"\n2,Two,"Größe, 25 °C"\n'


def source(path: Path, fields: Fields | None = None, **options: Any) -> TextSource:
    return TextSource(find_inputs([path]), fields or Fields(), **options)


def texts(rows: TextSource) -> list[str | Problem]:
    return [row.text for row in rows]


def problems(rows: TextSource) -> list[tuple[int, str]]:
    return [(row.number, row.text.reason) for row in rows if isinstance(row.text, Problem)]


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def write_file(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table().schema) as writer:
        writer.write_table(table())


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table().schema) as writer:
        writer.write_table(table())


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.parquet", "a.arrow", "a.stream.arrow"])
def test_every_kind_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pack = {".gz": gzip.compress, ".zst": zstd}.get(path.suffix, lambda content: content)
    if "csv" in name:
        path.write_bytes(pack(CSV.encode()))
    elif name == "a.parquet":
        pq.write_table(table(), path)
    else:
        (write_stream if "stream" in name else write_file)(path)
    found = list(source(path, Fields(id="id", keep=("title",))))
    assert [row.text for row in found] == ["first\nline", "Größe, 25 °C"]
    assert [str(row.id) for row in found] == ["1", "2"]
    assert [row.kept for row in found] == [{"title": "One"}, {"title": "Two"}]


def test_a_folder_gives_its_files_in_order_and_a_pattern_those_that_match(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", ".hidden.txt", "_temporary/c.txt", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(source(tmp_path)) == ["a/z.txt", "b.txt"]
    assert texts(source(tmp_path / "*.txt")) == ["b.txt"]
    with pytest.raises(InputError, match="No file matches"):
        find_inputs([tmp_path / "*.csv"])
    with pytest.raises(InputError, match=r"readme\.md is not a file of texts"):
        find_inputs([tmp_path / "readme.md"])
    assert texts(TextSource(find_inputs([tmp_path / "readme.md"], "txt"), Fields())) == ["readme.md"]


def test_a_folder_of_datasets_gives_its_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "data"))
    assert texts(source(tmp_path / "data")) == ["first\nline", "Größe, 25 °C"]
    data.select([1]).save_to_disk(str(tmp_path / "selected"))
    assert texts(source(tmp_path / "selected")) == ["Größe, 25 °C"]
    datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(InputError, match=r"contains several splits. Name one of: .*train"):
        find_inputs([tmp_path / "splits"])


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text("rain\nbread\n"))
    writer.start()
    found = source(path)
    assert (found.stream, texts(found)) == (True, ["rain", "bread"])
    writer.join()


def test_a_template_joins_fields_and_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 3, "t": "x", "z": null}\n')
    template = parse_template("{{{n}}} {t}: {t}")
    assert texts(source(tmp_path / "a.jsonl", Fields(template=template))) == ["{3} x: x"]
    missing = source(tmp_path / "a.jsonl", Fields(template=parse_template("{z}")))
    assert problems(missing) == [(1, "has null as 'z', which must be a string or a number")]
    for bad in ("{}", "{a.b!r}", "{a", "plain", "{a:>9}"):
        with pytest.raises(InputError, match="`text`"):
            parse_template(bad)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": null}\n', "has null as 'text', which must be a string"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ["b"]}\n', "has list as 'text', which must be a string"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "has no 'text'; it has body"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "is not JSON"),
        ("a.txt", b"a\nbro\xffken\n", "is not UTF-8 (byte 4: invalid start byte)"),
        ("a.csv", b"id,text\n1,a,b\n", "has 3 fields, the header has 2"),
        ("a.csv", b"id,text\n1,\xff\n", "is not UTF-8 (byte 3: invalid start byte)"),
    ],
)
def test_a_bad_row_is_named_and_the_rows_after_it_are_read(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    last = {"a.jsonl": b'{"text": "last"}\n', "a.txt": b"last\n", "a.csv": b"3,last\n"}[name]
    (tmp_path / name).write_bytes(content + last)
    found = source(tmp_path / name)
    ((number, got),) = problems(found)
    assert (number, got.startswith(reason)) == (2, True), got
    assert texts(found)[-1] == "last"
    assert found.survey(strict=False).bad_rows == 1
    with pytest.raises(InputError, match=rf"{name} line 2 {reason[:20]}".replace("(", r"\(").replace("[", r"\[")):
        found.survey(strict=True)


def test_nan_and_nested_values_of_parquet_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1.5, float("nan")], "deep": [{"a": 1}, None]}), tmp_path / "a.parquet")
    assert problems(source(tmp_path / "a.parquet")) == [
        (1, "has float as 'text', which must be a string"),
        (2, "has NaN as 'text', which must be a string"),
    ]
    deep = source(tmp_path / "a.parquet", Fields(text="deep"))
    assert problems(deep)[0] == (1, "has dict as 'deep', which must be a string")


def test_an_encoding_is_followed_and_a_byte_order_mark_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text\nGröße\n".encode("latin-1"))
    assert texts(source(tmp_path / "a.csv", encoding="latin-1")) == ["Größe"]
    (tmp_path / "b.csv").write_bytes("\ufefftext\r\nx\r\n".encode())
    assert texts(source(tmp_path / "b.csv")) == ["x"]
    for name, message in (("nope", "Unknown encoding"), ("utf-16", "cannot be read line by line")):
        with pytest.raises(InputError, match=message):
            source(tmp_path / "a.csv", encoding=name)


def test_a_line_of_ten_megabytes_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "' + "word " * 2_000_000 + '"}\n')
    (found,) = texts(source(tmp_path / "a.jsonl"))
    assert isinstance(found, str) and len(found) == 10_000_000


def test_repeated_ids_are_refused_with_both_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 7, "text": "a"}\n{"id": 8, "text": "b"}\n{"id": "7", "text": "c"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl line 3 has the id '7' of .*a\.jsonl line 1"):
        source(tmp_path / "a.jsonl", Fields(id="id")).survey(strict=True)
    with pytest.raises(InputError, match="line 1 has float as 'x', and an id is a string or a whole number"):
        (tmp_path / "b.jsonl").write_text('{"x": 1.5, "text": "a"}\n')
        source(tmp_path / "b.jsonl", Fields(id="x")).survey(strict=True)


def test_a_survey_finds_the_types_of_kept_fields(tmp_path: Path) -> None:
    lines = '{"text": "a", "n": 1, "x": 1, "m": [1]}\n{"text": "b", "n": 2, "x": 0.5, "m": "s", "b": true}\n'
    (tmp_path / "a.jsonl").write_text(lines)
    survey = source(tmp_path / "a.jsonl", Fields(keep=None)).survey(strict=True)
    assert survey.columns == {
        "text": "string",
        "n": "int64",
        "x": "double",
        "m": "json",
        "b": "bool",
    }
    pq.write_table(table(), tmp_path / "a.parquet")
    kept = source(tmp_path / "a.parquet", Fields(keep=("title",)))
    assert kept.survey(strict=True).columns == {"title": "arrow"}
    assert kept.arrow_types() == {"title": pa.string()}


def test_blank_texts_are_bad_rows_of_a_model_without_a_vector_for_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n \nb\n")
    assert problems(source(tmp_path / "a.txt")) == []
    with pytest.raises(InputError, match=r"a\.txt line 2 has an empty text"):
        source(tmp_path / "a.txt", empty_texts=False).survey(strict=True)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv.gz", "a.csv.zst"])
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not what its name says")
    with pytest.raises(InputError, match=rf"(Cannot read .*{name}|{name} cannot be read as)"):
        list(source(tmp_path / name))


def test_a_row_knows_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    (row,) = source(tmp_path / "a.txt")
    assert isinstance(row, SourceRow) and row.place == f"{tmp_path / 'a.txt'} line 1"


def test_a_quote_that_is_never_closed_is_refused_where_its_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "stray.csv"
    path.write_text('id,text\n1,one\n2,"two\n3,three\n4,four\n')
    with pytest.raises(InputError, match=r"stray.csv: the row that begins on line 3 is not CSV"):
        list(read_rows(path))
    path.write_text('id,text\n1,"one\nand ""more"""\n2,two\n')
    assert [row["text"] for _, row in read_rows(path)] == ['one\nand "more"', "two"]
