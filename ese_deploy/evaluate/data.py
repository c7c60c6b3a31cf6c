"""Reading labelled data: pairs with scores, and retrieval collections with relevance judgements."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.system.files import sha256_file
from ese_deploy.texts.columnar import COLUMNAR_KINDS
from ese_deploy.texts.dialect import Dialect
from ese_deploy.texts.reader import NumberedRow, kind_of, read_rows, stem_of, text_field

__all__ = ["RetrievalData", "StsData", "parse_columns", "read_retrieval", "read_sts"]

# What each column is called without `columns`, the first name that the file has.
_STS_COLUMNS = {
    "text1": ("sentence1", "text1"),
    "text2": ("sentence2", "text2"),
    "score": ("score", "label"),
    "subset": ("subset",),
}
_STS_NEEDED = ("text1", "text2", "score")
_STS_KINDS = (".tsv", ".csv", ".jsonl", *COLUMNAR_KINDS)
_MAX_SCORE = 5.0
_DIALECT = Dialect()


@dataclass(frozen=True)
class StsData:
    """Pairs of sentences with similarity scores.

    Attributes:
        name: the file's name without its suffixes.
        sha256: hash of the file as it lies on the disk.
        first: the first sentence of each pair.
        second: the second sentence of each pair.
        scores: float64 [n]; only their order and their distances count.
        subsets: the part of the data that each pair belongs to; empty where the file has no such column.
    """

    name: str
    sha256: str
    first: list[str]
    second: list[str]
    scores: NDArray[np.float64]
    subsets: list[str]


@dataclass(frozen=True)
class RetrievalData:
    """A collection of documents, queries, and which documents answer which query.

    Attributes:
        name: the folder's name.
        sha256: hash over the hashes of corpus, queries and judgements.
        document_ids: as in the corpus.
        documents: title and text joined by one blank.
        query_ids: of the queries that have judgements, in the order of the file.
        queries: their texts.
        relevance: for each query the grades of judged documents, by document id; documents that the corpus lacks
            count as relevant and not found, as in trec_eval.
        missing: number of judgements that name a document or a query that is not there.
        first_missing: where the first of them stands, or an empty string.
    """

    name: str
    sha256: str
    document_ids: list[str]
    documents: list[str]
    query_ids: list[str]
    queries: list[str]
    relevance: list[dict[str, int]]
    missing: int
    first_missing: str


def read_sts(path: str | Path, columns: str | Mapping[str, str] | None = None, dialect: Dialect = _DIALECT) -> StsData:
    """Read scored pairs from ``.tsv``, ``.csv`` or ``.jsonl``, plain, ``.gz`` or ``.zst``, from Parquet or Arrow IPC.

    A ``.tsv`` knows no quoting: every character but tab and line feed stands for itself.

    Args:
        path: the file.
        columns: the file's columns, such as ``text1=question,text2=answer,score=relevance``; by default sentence1 or
            text1, sentence2 or text2, score or label (from 0 to 5) and, if there is one, subset.
        dialect: encoding of lines and separator of a ``.csv``.

    Raises:
        InputError: the file is missing, empty or of another kind, a column is missing, all scores are equal, or a
            score is not a number, or beyond 0 to 5 where ``columns`` does not name it; the message names the line.

    Example:
        >>> data = read_sts("faq.csv", "text1=question,text2=answer,score=relevance")
    """
    path = Path(path)
    named = parse_columns(columns) if isinstance(columns, str) else dict(columns or {})
    if kind_of(path) not in _STS_KINDS:
        raise InputError(
            f"{path} is not a .tsv, .csv or .jsonl file, also with .gz or .zst, and not Parquet or Arrow IPC"
        )
    first, second, scores, subsets = [], [], [], []
    found: dict[str, str] | None = None
    for number, row in read_rows(path, dialect):
        found = found or _sts_columns(row, named, path)
        lacking = next((found[name] for name in _STS_NEEDED if found[name] not in row), None)
        if lacking is not None:
            raise InputError(f"{path} line {number} has no '{lacking}'; it has {_listed(row)}.")
        first.append(text_field(row, found["text1"], path, number))
        second.append(text_field(row, found["text2"], path, number))
        scores.append(_score(row[found["score"]], path, number, "score" in named))
        if found.get("subset") in row:
            subsets.append(str(row[found["subset"]]))
    if not scores:
        raise InputError(f"{path} holds no pair. A file of pairs has the columns sentence1, sentence2 and score.")
    if min(scores) == max(scores):
        raise InputError(f"{path}: all {len(scores)} scores are {scores[0]:g}, with which nothing correlates")
    return StsData(
        name=stem_of(path),
        sha256=sha256_file(path),
        first=first,
        second=second,
        scores=np.array(scores),
        subsets=subsets if len(subsets) == len(scores) else [],
    )


def read_retrieval(folder: str | Path) -> RetrievalData:
    """Read a folder as BEIR lays it out: ``corpus.jsonl``, ``queries.jsonl``, ``qrels.tsv`` or ``qrels/test.tsv``.

    Each may end in ``.gz``. Ids stand under ``_id`` or ``id``; a judgement is query-id, corpus-id, score.

    Raises:
        InputError: a file is missing, empty or broken, or no judgement names a query that is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. `retrieval` needs a folder with corpus, queries and qrels.")
    corpus = _find(folder, "corpus.jsonl")
    queries = _find(folder, "queries.jsonl")
    qrels = _find(folder, "qrels.tsv", "qrels/test.tsv")
    documents = _read_texts(corpus)
    query_texts = _read_texts(queries)
    judged: dict[str, dict[str, int]] = {}
    missing, first_missing = 0, ""
    for number, row in _rows(qrels, ("query-id", "corpus-id", "score")):
        query, document = row["query-id"], row["corpus-id"]
        grade = _grade(row["score"], qrels, number)
        if query not in query_texts or document not in documents:
            missing += 1
            what = f"query '{query}'" if query not in query_texts else f"document '{document}'"
            first_missing = first_missing or f"{qrels} line {number} names {what}, which is not there"
        if query in query_texts:
            judged.setdefault(query, {})[document] = grade
    if not judged:
        reason = f"; {first_missing}" if first_missing else ""
        raise InputError(f"{qrels} judges no query of {queries}{reason}")
    ids = [query for query in query_texts if query in judged]
    digest = hashlib.sha256("".join(map(sha256_file, (corpus, queries, qrels))).encode())
    return RetrievalData(
        name=folder.resolve().name,
        sha256=digest.hexdigest(),
        document_ids=list(documents),
        documents=list(documents.values()),
        query_ids=ids,
        queries=[query_texts[query] for query in ids],
        relevance=[judged[query] for query in ids],
        missing=missing,
        first_missing=first_missing,
    )


def parse_columns(text: str) -> dict[str, str]:
    """Read ``text1=question,text2=answer,score=relevance``: for each of text1, text2, score and subset a column.

    Raises:
        InputError: the text has another form, or names something else.
    """
    found: dict[str, str] = {}
    for item in text.split(","):
        name, equals, column = (part.strip() for part in item.partition("="))
        if not equals or not column or name not in _STS_COLUMNS:
            raise InputError(
                f"`columns` has '{item.strip()}'. Write it as text1=COLUMN,text2=COLUMN,score=COLUMN, with "
                f"any of: {', '.join(_STS_COLUMNS)}."
            )
        if name in found:
            raise InputError(f"`columns` names {name} twice: '{found[name]}' and '{column}'. Leave one out.")
        found[name] = column
    return found


def _sts_columns(row: Mapping[str, Any], named: Mapping[str, str], path: Path) -> dict[str, str]:
    """The file's column of each part of a pair."""
    unknown = next((column for column in named.values() if column not in row), None)
    if unknown is not None:
        raise InputError(f"{path} has no column '{unknown}', which `columns` names. It has {_listed(row)}.")
    found = dict(named)
    for name, usual in _STS_COLUMNS.items():
        column = next((column for column in usual if column in row), None)
        if name not in found and column is not None:
            found[name] = column
    missing = [name for name in _STS_NEEDED if name not in found]
    if missing:
        wanted = ", ".join(" or ".join(f"'{usual}'" for usual in _STS_COLUMNS[name]) for name in missing)
        raise InputError(
            f"{path} has no column {wanted}; it has {_listed(row)}. Say which is which: {_suggestion(row, found)}."
        )
    return found


def _suggestion(row: Mapping[str, Any], found: Mapping[str, str]) -> str:
    """A value of ``columns`` that fits the row: its first texts, and its last number."""
    free = [column for column in row if column not in found.values() and column.lower() not in ("id", "_id")]
    numbers = [column for column in free if _is_number(row[column])]
    texts = [column for column in free if isinstance(row[column], str) and column not in numbers]
    left = {"text1": texts, "text2": texts, "score": numbers[::-1]}
    chosen = [f"{name}={found.get(name) or (left[name].pop(0) if left[name] else 'COLUMN')}" for name in _STS_NEEDED]
    value = f"columns={','.join(chosen)}"
    # With a blank it is not one word of a command line.
    return f"`{value}`" if " " not in value else f"`columns` '{value.removeprefix('columns=')}'"


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row)) or "nothing"


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise InputError(f"{folder} has no {' or '.join(names)} (plain or .gz), which `retrieval` needs.")


def _read_texts(path: Path) -> dict[str, str]:
    """Texts by id, a title put before the text."""
    texts: dict[str, str] = {}
    for number, row in _rows(path, ("text",)):
        key = row.get("_id", row.get("id"))
        if key is None:
            raise InputError(f"{path} line {number} has no '_id' and no 'id'; it has {', '.join(row)}")
        if str(key) in texts:
            raise InputError(f"{path} line {number} has the id '{key}' of an earlier line; ids must differ")
        title = row.get("title") or ""
        texts[str(key)] = f"{title} {text_field(row, 'text', path, number)}".strip()
    if not texts:
        raise InputError(f"{path} is empty; it needs a JSON object with an id and a text on each line")
    return texts


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[NumberedRow]:
    """Rows with the number of their line; every row has the columns."""
    for number, row in read_rows(path):
        lacking = [column for column in columns if column not in row]
        if lacking:
            raise InputError(f"{path} line {number} has no '{lacking[0]}'; it has {_listed(row)}")
        yield number, row


def _score(value: Any, path: Path, number: int, named: bool) -> float:
    """A score; where the user named its column, on any scale."""
    if not _is_number(value):
        raise InputError(f"{path} line {number} has the score '{value}'; scores are numbers.")
    score = float(value)
    if not named and not 0 <= score <= _MAX_SCORE:
        raise InputError(
            f"{path} line {number} has the score '{value}'; scores are numbers from 0 to {_MAX_SCORE:g}. For scores on "
            "another scale, name their column: `columns=score=score`."
        )
    return score


def _grade(value: str, path: Path, number: int) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(
            f"{path} line {number} has the score '{value}'; a judgement's score is a whole number"
        ) from None
