from pathlib import Path

import numpy as np
import pytest
from helpers.evaluation import collection_of, pairs
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import SentenceTransformer

from ese_deploy.backbones import read_checkpoint
from ese_deploy.bundle.reader import Bundle
from ese_deploy.errors import InputError
from ese_deploy.evaluate import (
    RetrievalData,
    agreement,
    evaluate_retrieval,
    evaluate_sts,
    neighbour_overlap,
    score_retrieval,
    score_sts,
)
from ese_deploy.evaluate import retrieval as retrieval_module
from ese_deploy.evaluate.checkpoint import CheckpointExits
from ese_deploy.runtime import Encoder

Vectors = NDArray[np.float32]


def vectors(rows: int, dim: int = 12, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def test_both_protocols_are_what_scipy_says() -> None:
    subsets = ["a"] * 20 + ["b"] * 30 + ["a"] * 10
    data = pairs(60, subsets)
    first, second = vectors(60), vectors(60, seed=1) * 7
    cosines = [float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(first, second, strict=True)]
    score = score_sts(first, second, data)
    assert score.spearman == pytest.approx(spearmanr(cosines, data.scores).statistic)
    assert score.pearson == pytest.approx(pearsonr(cosines, data.scores).statistic)
    rows = {name: [i for i, subset in enumerate(subsets) if subset == name] for name in "ab"}
    expected = [spearmanr([cosines[i] for i in r], data.scores[r]).statistic for r in rows.values()]
    assert list(score.subsets.values()) == pytest.approx(expected)
    assert score.spearman_mean == pytest.approx(np.mean(expected))
    assert score.spearman_mean != pytest.approx(score.spearman)


def test_a_subset_without_a_correlation_is_left_out_of_the_mean() -> None:
    data = pairs(21, ["a"] * 20 + ["lonely"])
    score = score_sts(vectors(21), vectors(21, seed=1), data)
    assert list(score.subsets) == ["a"]
    assert score.spearman_mean == score.subsets["a"]


def test_pairs_that_cannot_be_scored_are_refused() -> None:
    data = pairs(5)
    with pytest.raises(InputError, match="has 5 pairs, got vectors of 4"):
        score_sts(vectors(4), vectors(4), data)
    with pytest.raises(InputError, match="NaN or infinity"):
        score_sts(np.full((5, 3), np.nan), np.ones((5, 3)), data)
    with pytest.raises(InputError, match="have no correlation"):
        score_sts(np.ones((5, 3)), np.ones((5, 3)), data)


def test_search_metrics_are_those_of_trec_eval() -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec-eval-terrier is not installed")
    data = collection_of(400, 25)
    queries, documents = vectors(25), vectors(400, seed=1)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        documents / np.linalg.norm(documents, axis=1, keepdims=True)
    ).T
    run = {
        query: dict(zip(data.document_ids, map(float, row), strict=True))
        for query, row in zip(data.query_ids, cosines, strict=True)
    }
    qrels = dict(zip(data.query_ids, data.relevance, strict=True))
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10,100"})
    found = evaluator.evaluate(run)
    top = {q: dict(sorted(docs.items(), key=lambda item: -item[1])[:10]) for q, docs in run.items()}
    ranks = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(top)
    score = score_retrieval(queries, documents, data)
    for value, name in (
        (score.ndcg_at_10, "ndcg_cut_10"),
        (score.recall_at_10, "recall_10"),
        (score.recall_at_100, "recall_100"),
    ):
        assert value == pytest.approx(np.mean([row[name] for row in found.values()]))
    assert score.mrr_at_10 == pytest.approx(np.mean([row["recip_rank"] for row in ranks.values()]))
    assert score.n == 25


def test_ties_keep_the_order_of_the_documents_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = np.repeat(np.eye(3, dtype=np.float32), [5, 4, 6], axis=0)
    queries = np.array([[0, 1, 0], [1, 0, 0], [0.5, 0.5, 0]], np.float32)
    expected = [[5, 6, 7, 8, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]]
    for size in (1, 2, 7, 100):
        monkeypatch.setattr(retrieval_module, "_DOCUMENTS", size)
        monkeypatch.setattr(retrieval_module, "_QUERIES", size)
        rows, scores = retrieval_module.search(queries, documents, 7)
        assert rows.tolist() == expected
        assert (np.diff(scores, axis=1) <= 0).all()


def test_a_document_with_the_queries_own_id_is_not_found() -> None:
    data = collection_of(20, 1)
    twin = RetrievalData(**{**vars(data), "query_ids": ["d3"], "relevance": [{"d3": 1, "d4": 1}]})
    documents = vectors(20)
    documents[4] = documents[3] * 2
    assert score_retrieval(documents[3:4], documents, twin).mrr_at_10 == 1.0
    assert score_retrieval(documents[3:4], documents, twin).recall_at_100 == 0.5


def test_vectors_that_do_not_fit_the_collection_are_refused() -> None:
    data = collection_of(20, 2)
    with pytest.raises(InputError, match=r"shape \[2, dim\], got \[3, 12\]"):
        score_retrieval(vectors(3), vectors(20), data)
    with pytest.raises(InputError, match="queries have 12 dimensions and documents 8"):
        score_retrieval(vectors(2), vectors(20, 8), data)


def test_agreement_and_overlap_are_one_for_the_model_itself_and_less_for_another() -> None:
    full = vectors(40, 16)
    full /= np.linalg.norm(full, axis=1, keepdims=True)
    other = np.linalg.qr(vectors(16, 16, seed=2))[0].astype(np.float32)
    assert agreement(full @ other, full) == pytest.approx(1.0, abs=1e-4)
    assert neighbour_overlap(full @ other, full) == pytest.approx(1.0, abs=0.01)
    half = full[:, :6] / np.linalg.norm(full[:, :6], axis=1, keepdims=True)
    assert 0.3 < neighbour_overlap(half, full) < 0.95


def test_overlap_is_the_literal_share_of_common_neighbours() -> None:
    first, second = vectors(30, 5), vectors(30, 5, seed=4)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)

    def nearest(rows: Vectors, text: int) -> set[int]:
        others = sorted((i for i in range(30) if i != text), key=lambda i: -float(rows[i] @ rows[text]))
        return set(others[:10])

    expected = np.mean([len(nearest(first, i) & nearest(second, i)) / 10 for i in range(30)])
    assert neighbour_overlap(first, second) == pytest.approx(expected)
    with pytest.raises(InputError, match="more than 10 texts"):
        neighbour_overlap(first[:10], second[:10])


def test_an_encoder_a_checkpoint_and_sentence_transformers_score_the_same(
    tiny_bundle: Bundle, tiny_checkpoint: Path
) -> None:
    data, search = pairs(30), collection_of(30, 5)
    encoder = Encoder.open(tiny_bundle)
    checkpoint = CheckpointExits(read_checkpoint(str(tiny_checkpoint))).at(3)
    theirs = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    scores = [evaluate_sts(model, data).spearman for model in (encoder, checkpoint, theirs)]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-5)
    found = [evaluate_retrieval(model, search) for model in (encoder, checkpoint, theirs)]
    assert found[0] == found[1] == found[2]
