"""Reading labelled data: pairs with scores, and retrieval collections with relevance judgements."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ese_deploy.errors import InputError
from ese_deploy.system.files import sha256_file
from ese_deploy.texts.columnar import COLUMNAR_KINDS
from ese_deploy.texts.reader import NumberedRow, kind_of, read_rows, stem_of, text_field

__all__ = ["RetrievalData", "StsData", "read_retrieval", "read_sts"]

_STS_COLUMNS = ("sentence1", "sentence2", "score")
_STS_KINDS = (".tsv", ".csv", ".jsonl", *COLUMNAR_KINDS)
_MAX_SCORE = 5.0


@dataclass(frozen=True)
class StsData:
    """Pairs of sentences with similarity scores.

    Attributes:
        name: the file's name without its suffixes.
        sha256: hash of the file as it lies on the disk.
        first: the first sentence of each pair.
        second: the second sentence of each pair.
        scores: float64 [n], from 0 to 5.
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


def read_sts(path: str | Path) -> StsData:
    """Read scored pairs from ``.tsv``, ``.csv`` or ``.jsonl``, plain, ``.gz`` or ``.zst``, from Parquet or Arrow IPC.

    The columns are sentence1, sentence2, score and, if there is one, subset. A ``.tsv`` knows no quoting: every
    character but tab and line feed stands for itself.

    Raises:
        InputError: the file is missing, empty or of another kind, a column is missing, all scores are equal, or a
            score is not a number from 0 to 5; the message names the line.
    """
    path = Path(path)
    if kind_of(path) not in _STS_KINDS:
        raise InputError(
            f"{path} is not a .tsv, .csv or .jsonl file, also with .gz or .zst, and not Parquet or Arrow IPC"
        )
    first, second, scores, subsets = [], [], [], []
    for number, row in _rows(path, _STS_COLUMNS):
        first.append(text_field(row, "sentence1", path, number))
        second.append(text_field(row, "sentence2", path, number))
        scores.append(_score(row["score"], path, number))
        if "subset" in row:
            subsets.append(str(row["subset"]))
    if not scores:
        raise InputError(f"{path} holds no pair; a file of pairs has the columns {', '.join(_STS_COLUMNS)}")
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
            has = ", ".join(map(str, row)) or "nothing"
            raise InputError(f"{path} line {number} has no '{lacking[0]}'; it has {has}")
        yield number, row


def _score(value: Any, path: Path, number: int) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not 0 <= score <= _MAX_SCORE:
        raise InputError(f"{path} line {number} has the score '{value}'; scores are numbers from 0 to {_MAX_SCORE:g}")
    return score


def _grade(value: str, path: Path, number: int) -> int:
    try:
        return int(value)
    except ValueError:
        raise InputError(
            f"{path} line {number} has the score '{value}'; a judgement's score is a whole number"
        ) from None
