"""Retrieval: ranking the documents of a collection for each query."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ese_deploy.errors import InputError
from ese_deploy.evaluate.data import RetrievalData
from ese_deploy.evaluate.sts import CanEncode

__all__ = [
    "RetrievalScore",
    "evaluate_retrieval",
    "mean_score",
    "query_scores",
    "score_ranking",
    "score_rankings",
    "score_retrieval",
    "search",
]

_TOP = 100
_QUERIES, _DOCUMENTS = 256, 16384

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class RetrievalScore:
    """Means over the queries, from 0 to 1.

    Attributes:
        n: number of queries.
        ndcg_at_10: normalised discounted cumulative gain; the gain is the grade (Järvelin and Kekäläinen, 2002).
        recall_at_10: share of the relevant documents among the first 10.
        recall_at_100: among the first 100.
        mrr_at_10: reciprocal rank of the first relevant document, 0 where it is not among the first 10.
    """

    n: int
    ndcg_at_10: float
    recall_at_10: float
    recall_at_100: float
    mrr_at_10: float


def evaluate_retrieval(model: CanEncode, data: RetrievalData) -> RetrievalScore:
    """Embed queries and documents and score the search.

    ``encode_query`` and ``encode_document`` are used where the model has them.
    """
    queries = getattr(model, "encode_query", model.encode)(data.queries)
    documents = getattr(model, "encode_document", model.encode)(data.documents)
    return score_retrieval(queries, documents, data)


def score_retrieval(queries: ArrayLike, documents: ArrayLike, data: RetrievalData) -> RetrievalScore:
    """Rank the documents of each query by cosine and score the first 100.

    A document that has the query's own id is left out, as BEIR does.

    Args:
        queries: vectors of ``data.queries``, [q, dim], of any norm.
        documents: vectors of ``data.documents``, [d, dim].
        data: the collection.

    Raises:
        InputError: a number or the dims differ, or a vector holds NaN or infinity.
    """
    return mean_score(query_scores(queries, documents, data))


def mean_score(scores: NDArray[np.float64]) -> RetrievalScore:
    """The means of what :func:`query_scores` returns."""
    return RetrievalScore(len(scores), *scores.mean(0).tolist())


def query_scores(queries: ArrayLike, documents: ArrayLike, data: RetrievalData) -> NDArray[np.float64]:
    """Score each query; arguments and errors as for :func:`score_retrieval`.

    Returns:
        nDCG@10, Recall@10, Recall@100 and MRR@10 of each query, [q, 4].
    """
    left, right = (
        _normalise(queries, len(data.queries), data.name),
        _normalise(documents, len(data.documents), data.name),
    )
    if left.shape[1] != right.shape[1]:
        raise InputError(f"queries have {left.shape[1]} dimensions and documents {right.shape[1]}; they must agree")
    ranked, _ = search(left, right, _TOP + 1)
    return score_rankings(ranked, data)


def score_rankings(ranked: NDArray[np.int64], data: RetrievalData) -> NDArray[np.float64]:
    """Score the rows of documents found for each query, [q, found], the nearest first; result as of query_scores."""
    rows = []
    for query, found, grades in zip(data.query_ids, ranked, data.relevance, strict=True):
        names = [name for row in found if (name := data.document_ids[row]) != query]
        rows.append(score_ranking(names[:_TOP], grades))
    return np.array(rows)


def score_ranking(ranked: Sequence[str], grades: Mapping[str, int]) -> tuple[float, float, float, float]:
    """Score one query.

    Args:
        ranked: ids of the documents found, the nearest first.
        grades: the grade of each judged document; above 0 is relevant.

    Returns:
        nDCG@10, Recall@10, Recall@100 and MRR@10, as trec_eval defines them; 0 where nothing is relevant.
    """
    gains = [max(0, grades.get(name, 0)) for name in ranked[:_TOP]]
    relevant = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
    if not relevant:
        return 0.0, 0.0, 0.0, 0.0
    first = next((rank for rank, gain in enumerate(gains[:10], start=1) if gain), 0)
    return (
        _discounted(gains[:10]) / _discounted(relevant[:10]),
        sum(gain > 0 for gain in gains[:10]) / len(relevant),
        sum(gain > 0 for gain in gains) / len(relevant),
        1 / first if first else 0.0,
    )


def search(queries: Vectors, documents: Vectors, top: int) -> tuple[NDArray[np.int64], Vectors]:
    """Find the rows of ``documents`` with the largest products, in blocks, so that no [q, d] matrix is held.

    Args:
        queries: float32 [q, dim].
        documents: float32 [d, dim].
        top: how many to find; at most d are returned.

    Returns:
        int64 [q, top] row numbers and float32 [q, top] products, the largest first; of equal products the one that
        stands first in ``documents``.
    """
    top = min(top, len(documents))
    rows = np.empty((len(queries), top), np.int64)
    scores = np.empty((len(queries), top), np.float32)
    for start in range(0, len(queries), _QUERIES):
        block = queries[start : start + _QUERIES]
        kept_rows = np.empty((len(block), 0), np.int64)
        kept = np.empty((len(block), 0), np.float32)
        for offset in range(0, len(documents), _DOCUMENTS):
            found = block @ documents[offset : offset + _DOCUMENTS].T
            numbers = np.broadcast_to(np.arange(offset, offset + found.shape[1]), found.shape)
            kept, kept_rows = _largest(np.hstack([kept, found]), np.hstack([kept_rows, numbers]), top)
        rows[start : start + _QUERIES], scores[start : start + _QUERIES] = kept_rows, kept
    return rows, scores


def _discounted(gains: Sequence[int]) -> float:
    """Discounted cumulative gain: each gain over the binary logarithm of its rank plus one."""
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _largest(scores: Vectors, rows: NDArray[np.int64], top: int) -> tuple[Vectors, NDArray[np.int64]]:
    """The ``top`` largest of each line, of equal ones the first; lines hold the documents in order, ties included."""
    top = min(top, scores.shape[1])
    least = np.partition(scores, -top, axis=1)[:, -top]
    kept = np.empty((len(scores), top), np.int64)
    for line, (values, limit) in enumerate(zip(scores, least, strict=True)):
        candidates = np.flatnonzero(values >= limit)
        kept[line] = candidates[np.argsort(-values[candidates], kind="stable")[:top]]
    return np.take_along_axis(scores, kept, 1), np.take_along_axis(rows, kept, 1)


def _normalise(vectors: Any, count: int, name: str) -> Vectors:
    matrix = np.asarray(vectors, np.float32)
    if matrix.ndim != 2 or len(matrix) != count:
        raise InputError(f"{name} needs vectors of the shape [{count}, dim], got {list(matrix.shape)}")
    if not np.isfinite(matrix).all():
        raise InputError(f"the vectors of {name} hold NaN or infinity; verify the model first")
    unit: Vectors = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    return unit
