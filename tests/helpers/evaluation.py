"""Data for evaluation, made on the spot: sentence pairs with scores, and a retrieval collection."""

import numpy as np

from ese_deploy.evaluate import RetrievalData, StsData
from ese_deploy.texts.sample import sample_corpus


def pairs(count: int, subsets: list[str] | None = None) -> StsData:
    texts = [item.text for item in sample_corpus()]
    scores = np.round(np.random.default_rng(3).uniform(0, 5, count), 1)
    return StsData("some", "0" * 64, texts[:count], texts[count : 2 * count], scores, subsets or [])


def collection_of(documents: int, queries: int, seed: int = 0) -> RetrievalData:
    rng = np.random.default_rng(seed)
    relevance = [
        {f"d{row}": int(rng.integers(0, 4)) for row in rng.choice(documents, 12, replace=False)} for _ in range(queries)
    ]
    return RetrievalData(
        name="some",
        sha256="0" * 64,
        document_ids=[f"d{row}" for row in range(documents)],
        documents=[f"text {row}" for row in range(documents)],
        query_ids=[f"q{row}" for row in range(queries)],
        queries=[f"query {row}" for row in range(queries)],
        relevance=relevance,
        missing=0,
        first_missing="",
    )
