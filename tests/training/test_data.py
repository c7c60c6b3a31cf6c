import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer

from ese_deploy.errors import InputError
from ese_deploy.training.collate import Collator, column_prompts, kept_prompts
from ese_deploy.training.columns import find_layout, parse_mapping
from ese_deploy.training.data import load_data, load_formats

TRIPLETS = [
    {"text": "a one", "positive": "p1", "negative": "n1"},
    {"text": "b two", "positive": "p2", "negative": "n2"},
]


def write(path: Path, text: str) -> str:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("present", "name", "sources"),
    [
        (["text1", "text2", "label"], "A", ("text1", "text2", "label")),
        (["dataset", "sentence1", "sentence2", "score"], "A", ("sentence1", "sentence2", "score")),
        (["positive", "query"], "B", ("query", "positive")),
        (["sentence1", "sentence2", "source"], "B", ("sentence1", "sentence2")),
        (["text", "positive", "negative"], "C", ("text", "positive", "negative")),
        (["anchor", "entailment", "contradiction", "source"], "C", ("anchor", "entailment", "contradiction")),
        (["id", "source", "text"], "texts", ("text",)),
    ],
)
def test_format_is_recognised_by_columns(present: list[str], name: str, sources: tuple[str, ...]) -> None:
    layout = find_layout(present, None, "data")
    assert (layout.format, layout.sources) == (name, sources)
    assert layout.label_free == (name == "texts")


def test_description_lists_renamed_columns() -> None:
    assert find_layout(["anchor", "entailment", "contradiction", "source"], None, "x").describe() == (
        "format C (query, positive, negative); renamed: 'anchor' as query, 'entailment' as positive, "
        "'contradiction' as negative"
    )


@pytest.mark.parametrize("name", ["nofile.csv", "folder/nofile.jsonl.gz", "x.txt"])
def test_a_missing_file_is_not_looked_up_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ese_deploy.training.data.load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="There is no file"):
        load_data([name])


def test_unused_columns_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_data([write(tmp_path / "a.csv", "question,answer,source,id\na,b,web,1\nc,d,web,2\n")])
    assert "does not use the columns source, id of 2 rows" in caplog.text


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ("question,answer,relevance", "relevance"),
        ("sentence1,sentence2,similarity_score", "similarity_score"),
        ("text1,text2,Rating", "Rating"),
        ("query,positive,score", "score"),
        ("id,anchor,positive,gold_label", "gold_label"),
    ],
)
def test_a_column_of_scores_is_the_label(columns: str, label: str) -> None:
    layout = find_layout(columns.split(","), None, "data")
    assert (layout.format, layout.sources[-1], layout.columns[-1]) == ("A", label, "label")
    assert not layout.label_free


def test_several_columns_of_scores_are_refused() -> None:
    with pytest.raises(InputError, match=r"columns score, rating, and each may hold scores. .* 'score:label'"):
        find_layout(["question", "answer", "score", "rating"], None, "data")


def test_label_free_format_a_keeps_only_its_texts() -> None:
    layout = find_layout(["text1", "text2", "label"], True, "data")
    assert layout.columns == ("text1", "text2") and layout.label_free


def test_unknown_columns_are_listed() -> None:
    with pytest.raises(InputError, match=r"data has the columns premise, gold, which match no format .*Rename them"):
        find_layout(["premise", "gold"], None, "data")
    with pytest.raises(InputError, match="`label_free` is off"):
        find_layout(["text"], False, "data")


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.json", "list.json", "t.csv", "t.tsv.gz", "t.parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        Dataset.from_list(TRIPLETS).to_parquet(path)
    elif name == "list.json":
        write(path, json.dumps(TRIPLETS, indent=1))
    elif "json" in name:
        write(path, jsonl(TRIPLETS))
    else:
        mark = "\t" if "tsv" in name else ","
        rows = [list(TRIPLETS[0]), *(list(row.values()) for row in TRIPLETS)]
        write(path, "".join(mark.join(row) + "\n" for row in rows))
    data = load_data([str(path)])
    assert data.dataset.to_list() == [
        {"query": row["text"], "positive": row["positive"], "negative": row["negative"]} for row in TRIPLETS
    ]
    assert "renamed: 'text' as query" in data.description[0]


def test_blank_lines_of_plain_text_are_skipped(tmp_path: Path) -> None:
    data = load_data([write(tmp_path / "a.txt", 'one "quoted\n\ntwo\n')])
    assert list(data.dataset["text"]) == ['one "quoted', "two"]


def test_files_of_one_format_are_concatenated(tmp_path: Path) -> None:
    first = write(tmp_path / "a.tsv", "anchor\tpositive\na\tb\n")
    second = write(tmp_path / "b.jsonl", jsonl([{"query": "c", "positive": ["d", "e"]}]))
    assert load_data([first, second]).dataset.to_list() == [
        {"query": "a", "positive": ["b"]},
        {"query": "c", "positive": ["d", "e"]},
    ]
    other = write(tmp_path / "c.txt", "text\n")
    with pytest.raises(InputError, match="All files must have one format"):
        load_data([first, other])
    by_format = load_formats([first, other, second])
    assert [(part.layout.format, len(part.dataset)) for part in by_format] == [("B", 2), ("texts", 1)]
    together = load_data([first, second, other], label_free=True)
    assert list(together.dataset["text"]) == ["a", "b", "c", "d", "e", "text"]
    assert together.description[-1] == "All files: 6 texts, one per row."


def test_labels_are_unchanged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "sentence1\tsentence2\tscore\na\tb\t4.25\nc\td\t-1\n")
    assert list(load_data([path]).dataset["label"]) == [4.25, -1.0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.jsonl",
            '{"query": "a", "positive": "b"}\n{"query": "a"}\n',
            r"a\.jsonl line 2 has no 'positive'. It has que",
        ),
        ("a.jsonl", '{"query": "a", "positive": "b"}\n{"query": 3, "positive": "b"}\n', "line 2 has int as 'query'"),
        ("a.jsonl", '{"text": ["a", "b"]}\n', r"a\.jsonl line 1 has list as 'text', which must be a text"),
        ("a.jsonl", '{"query": "a", "positive": "b"}\nnot json\n', "line 2 is not JSON"),
        ("a.json", '[{"text": "a"}, {"text": "b \\ud800"}]', "row 2 has an unpaired surrogate in 'text'"),
        ("a.tsv", "text\tpositive\na\tb\nc\n", "line 3 has 1 fields, the header has 2"),
        ("a.tsv", "text\tpositive\na\t \n", "line 2 has an empty text as 'positive'"),
        ("a.tsv", "text1\ttext2\tlabel\na\tb\tnan\n", "line 2 has the label 'nan'"),
        (
            "a.csv",
            "text1,text2,label\na,b,high\n",
            "line 2 has the label 'high' as 'label'. Labels must be finite numbers",
        ),
        ("a.tsv", "premise\tgold\na\tb\n", "has the columns premise, gold, which match no format"),
        ("a.txt", "\n", "has no rows"),
        ("a.docx", "x", "has an unknown type. Use .tsv, .csv, .jsonl"),
    ],
)
def test_bad_row_is_named_with_file_and_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data([write(tmp_path / name, text)])


def test_missing_data_is_a_one_line_error() -> None:
    with pytest.raises(
        InputError, match="'nobody/nothing' is not a local file or folder, and the hub did not return"
    ) as error:
        load_data(["nobody/nothing"], subset="pairs", split="dev")
    assert "\n" not in str(error.value)


def test_columns_are_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl([{"q": "a", "good": "b", "positive": "other"}]))
    data = load_data([path], mapping=parse_mapping("q:query;good:positive"))
    assert data.dataset.to_list() == [{"query": "a", "positive": "b"}]
    with pytest.raises(InputError, match=r"names 'bad', .* has q, good, positive"):
        load_data([path], mapping={"bad": "query"})
    other = write(tmp_path / "b.jsonl", jsonl([{"query": "c", "positive": "d"}]))
    assert load_data([path, other], mapping={"q": "query", "good": "positive"}).dataset["query"][:] == ["a", "c"]
    assert load_data([other], mapping={"q": "query"}, strict=False).dataset["query"][:] == ["c"]
    with pytest.raises(
        InputError, match=r"names 'bad', .*a\.jsonl has q, good, positive; .*b\.jsonl has query, positive"
    ):
        load_data([path, other], mapping={"bad": "query"})
    with pytest.raises(InputError, match="Write it as 'old:new;old2:new2'"):
        parse_mapping("a-b")


@pytest.mark.parametrize("form", ["lines", "list"])
def test_json_lines_end_only_at_newlines(tmp_path: Path, form: str) -> None:
    rows = [{"text": "one\u2028still one"}, {"text": "two\x85too"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = write(tmp_path / "a.json", "\n".join(lines) if form == "lines" else f"[{','.join(lines)}]")
    assert load_data([path]).dataset.to_list() == rows


def test_saved_folder_is_read_by_split(tmp_path: Path) -> None:
    DatasetDict({"train": Dataset.from_list(TRIPLETS)}).save_to_disk(tmp_path / "saved")
    assert len(load_data([str(tmp_path / "saved")]).dataset) == 2
    with pytest.raises(InputError, match=r"has no split 'dev'\. Choose one of: train"):
        load_data([str(tmp_path / "saved")], split="dev")
    with pytest.raises(InputError, match="is a folder that datasets did not save"):
        load_data([str(tmp_path)])


def test_prompts_are_added_and_prefixes_stored() -> None:
    triplet = ("query", "positive", "negative")
    prompts = column_prompts(triplet, None, "query: {text}", "<{text}>")
    assert prompts == {"query": "query: {text}", "positive": "<{text}>", "negative": "<{text}>"}
    assert kept_prompts(prompts) == ({"query": "query: "}, None)
    plain = column_prompts(("text",), "say: {text}", None, None)
    assert kept_prompts(plain) == ({"text": "say: "}, "text")
    with pytest.raises(InputError, match="`text_prompt` does not apply to data with query, positive, negative"):
        column_prompts(triplet, "{text}", None, None)
    with pytest.raises(InputError, match=r"must contain \{text\} once"):
        column_prompts(triplet, None, "query:", None)
    both = column_prompts((*triplet, "text"), "t: {text}", "q: {text}", None)
    assert both == {"query": "q: {text}", "text": "t: {text}"}


def test_text_of_a_list_is_drawn_by_seed_and_batch(tiny_checkpoint: Path) -> None:
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu", local_files_only=True)
    rows = [{"query": [f"{word} {number}" for number in range(9)], "label": 0.5} for word in ("tea", "sun", "sea")]
    batches = [Collator(model, ("query",), {}, 16, seed)(rows) for seed in (1, 1, 2)]
    ids = [batch["query_input_ids"].tolist() for batch in batches]
    assert ids[0] == ids[1] != ids[2]
    assert batches[0]["label"].tolist() == [0.5] * 3
    assert Collator(model, ("query",), {}, 4, 1)(rows)["query_input_ids"].shape == (3, 4)
