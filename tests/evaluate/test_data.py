import gzip
import json
import re
from pathlib import Path

import pytest

from ese_deploy.errors import InputError
from ese_deploy.evaluate import read_retrieval, read_sts
from ese_deploy.texts.dialect import dialect_of

HEADER = "dataset\tsubset\tsentence1\tsentence2\tscore\n"


def write(path: Path, text: str) -> Path:
    data = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def collection(folder: Path, qrels: str = "q1\td1\t1\nq2\td2\t2\n", name: str = "qrels.tsv") -> Path:
    documents = [{"_id": "d1", "title": "Title", "text": "one"}, {"id": "d2", "text": "two"}]
    write(folder / "corpus.jsonl.gz", "".join(json.dumps(item) + "\n" for item in documents))
    write(folder / "queries.jsonl", '{"id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}\n')
    write(folder / name, "query-id\tcorpus-id\tscore\n" + qrels)
    return folder


def test_a_quote_in_a_tsv_is_an_ordinary_character(tmp_path: Path) -> None:
    path = write(tmp_path / "quotes.tsv.gz", HEADER + 'd\ts\t"He said\tno" end\t3.2\nd\ts\ta\tb\t1\n')
    data = read_sts(path)
    assert (data.name, data.first, data.second) == ("quotes", ['"He said', "a"], ['no" end', "b"])
    assert data.scores.tolist() == [3.2, 1]
    assert data.subsets == ["s", "s"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.tsv", "a.csv.gz", "a.jsonl.gz"])
def test_every_kind_of_file_gives_the_same_pairs(tmp_path: Path, name: str) -> None:
    texts = {
        "csv": 'sentence1,sentence2,score\n"A, b",c,1\nd,e,2.5\n',
        "jsonl": '{"sentence1": "A, b", "sentence2": "c", "score": 1}\n\n'
        '{"sentence1": "d", "sentence2": "e", "score": "2.5"}\n \n',
        "tsv": "sentence1\tsentence2\tscore\r\nA, b\tc\t1\r\nd\te\t2.5\r\n\r\n",
    }
    data = read_sts(write(tmp_path / name, texts[name.removesuffix(".gz")[2:]]))
    assert (data.first, data.second, data.scores.tolist(), data.subsets) == (["A, b", "d"], ["c", "e"], [1, 2.5], [])


def test_a_field_of_csv_may_be_long_and_what_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.csv", f"sentence1,sentence2,score\nA,b,1\n{'word ' * 40_000},c,2\n")
    assert len(read_sts(path).first[1]) == 200_000
    monkeypatch.setattr("ese_deploy.texts.rows.MAX_FIELD", 1000)
    with pytest.raises(InputError, match=r"a\.csv: the row that begins on line 3 .* field larger than field limit"):
        read_sts(path)


@pytest.mark.parametrize("score", ["nan", "5.1", "-1", "inf", "", "three"])
def test_a_score_out_of_range_is_named_with_its_line(tmp_path: Path, score: str) -> None:
    path = write(tmp_path / "a.tsv", HEADER + f"d\ts\ta\tb\t1\nd\ts\ta\tb\t{score}\n")
    with pytest.raises(InputError, match=r"a\.tsv line 3 has the score"):
        read_sts(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "", "holds no pair"),
        ("a.tsv", HEADER, "holds no pair"),
        ("a.tsv", HEADER + "d\ts\ta\tb\t1\n", "all 1 scores are 1, with which nothing correlates"),
        ("a.tsv", HEADER + "d\ts\ta\tb\t2.5\n" * 3, "all 3 scores are 2.5"),
        ("a.tsv", "sentence1\tscore\na\t1\n", "has no column 'sentence2' or 'text2'; it has sentence1, score"),
        ("a.tsv", "sentence1\tsentence2\tscore\na\t1\n", "line 2 has 2 fields, the header has 3"),
        ("a.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("a.jsonl", "{\n", "line 1 is not JSON"),
        ("a.txt", "x", "is not a .tsv, .csv or .jsonl file"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_sts(write(tmp_path / name, text))


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(b"no gzip")
    (tmp_path / "b.tsv").write_bytes(b"sentence1\tsentence2\tscore\n\xff\tb\t1\n")
    for path, message in (("a.tsv.gz", "Cannot read"), ("b.tsv", "line 2 is not UTF-8"), ("c.tsv", "There is no file")):
        with pytest.raises(InputError, match=message):
            read_sts(tmp_path / path)


@pytest.mark.parametrize("name", ["qrels.tsv", "qrels.tsv.gz", "qrels/test.tsv"])
def test_a_collection_joins_title_and_text(tmp_path: Path, name: str) -> None:
    data = read_retrieval(collection(tmp_path / "fun", name=name))
    assert data.name == "fun"
    assert data.documents == ["Title one", "two"]
    assert data.queries == ["first", "second"]
    assert data.relevance == [{"d1": 1}, {"d2": 2}]
    assert data.missing == 0


def test_judgements_of_what_is_missing_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    data = read_retrieval(collection(tmp_path, "q1\td1\t1\nq1\td9\t1\nq9\td1\t1\n"))
    assert data.missing == 2
    assert data.first_missing == f"{tmp_path / 'qrels.tsv'} line 3 names document 'd9', which is not there"
    assert data.query_ids == ["q1"]
    assert data.relevance == [{"d1": 1, "d9": 1}]


@pytest.mark.parametrize(
    ("qrels", "message"),
    [("q1\td1\tx\n", "line 2 has the score 'x'"), ("", "judges no query"), ("q7\td1\t1\n", "names query 'q7'")],
)
def test_broken_judgements_are_named(tmp_path: Path, qrels: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_retrieval(collection(tmp_path, qrels))


def test_a_part_of_a_collection_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    folder = collection(tmp_path)
    write(folder / "queries.jsonl", "")
    with pytest.raises(InputError, match=r"queries\.jsonl is empty"):
        read_retrieval(folder)
    (folder / "qrels.tsv").unlink()
    with pytest.raises(InputError, match=r"has no qrels\.tsv or qrels/test\.tsv"):
        read_retrieval(folder)
    with pytest.raises(InputError, match="There is no folder"):
        read_retrieval(tmp_path / "none")


FAQ = [("How do I pay?", "By card, or cash.", "87.5"), ("Où?", "Là", "0"), ("Who?", "Us", "100")]
NAMED = "text1=question,text2=answer,score=relevance"


def faq(separator: str) -> str:
    rows = [("id", "question", "answer", "relevance"), *((str(n), *row) for n, row in enumerate(FAQ))]
    return "".join(separator.join(f'"{cell}"' if separator in cell else cell for cell in row) + "\n" for row in rows)


@pytest.mark.parametrize("kind", ["comma", "semicolon in cp1252", "tab", "jsonl", "parquet"])
def test_columns_are_named_and_scores_have_any_scale(tmp_path: Path, kind: str) -> None:
    rows = [dict(zip(("question", "answer", "relevance"), row, strict=True)) for row in FAQ]
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        from pyarrow import Table
        from pyarrow.parquet import write_table

        numbered = [{**row, "relevance": float(row["relevance"])} for row in rows]
        write_table(Table.from_pylist(numbered), tmp_path / "faq.parquet")
        data = read_sts(tmp_path / "faq.parquet", NAMED)
    elif kind == "jsonl":
        data = read_sts(write(tmp_path / "faq.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), NAMED)
    elif kind == "tab":
        data = read_sts(write(tmp_path / "faq.tsv", faq("\t")), NAMED)
    elif kind == "comma":
        named = {"text1": "question", "text2": "answer", "score": "relevance"}
        data = read_sts(write(tmp_path / "faq.csv", faq(",")), named)
    else:
        (tmp_path / "faq.csv").write_bytes(faq(";").encode("cp1252"))
        data = read_sts(tmp_path / "faq.csv", NAMED, dialect_of("cp1252", "semicolon"))
    assert (data.first, data.second) == ([row[0] for row in FAQ], [row[1] for row in FAQ])
    assert data.scores.tolist() == [87.5, 0, 100]


def test_a_file_with_other_columns_is_refused_with_the_option_that_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "faq.csv", faq(","))
    with pytest.raises(InputError) as refused:
        read_sts(path)
    assert "it has id, question, answer, relevance" in str(refused.value)
    suggested = re.search("`columns=(.+)`", str(refused.value))
    assert suggested is not None and suggested[1] == NAMED
    assert read_sts(path, suggested[1]).first == [row[0] for row in FAQ]
    for columns, message in (
        ("text1=question,text2=answer,score=rel", "has no column 'rel', which `columns` names"),
        ("question=text1", "`columns` has 'question=text1'. Write it as text1=COLUMN"),
        ("text1=question,text1=answer", "names text1 twice"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            read_sts(path, columns)


def test_another_separator_or_encoding_is_refused_with_the_option_that_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "faq.csv", faq(";"))
    with pytest.raises(InputError, match=r"line 1 has no comma, .* say so with `separator=semicolon`"):
        read_sts(path, NAMED)
    path.write_bytes(faq(";").encode("cp1252"))
    with pytest.raises(InputError, match=r"line 3 is not UTF-8 .* name its encoding, for example `encoding=cp1252`"):
        read_sts(path, NAMED, dialect_of(separator=";"))
    with pytest.raises(InputError, match=r"Unknown `separator` 'dash'\. Choose one of: comma, semicolon, tab, pipe"):
        dialect_of(separator="dash")
