"""BM25, which ranks documents by the words that they share with a query: a baseline without a model."""

import importlib.util
import logging

import numpy as np
from numpy.typing import NDArray

from ese_deploy.evaluate.data import RetrievalData
from ese_deploy.evaluate.retrieval import score_rankings
from ese_deploy.system.install import install_hint

__all__ = ["BM25", "bm25_scores"]

BM25 = "BM25"
_TOP = 101

_LOG = logging.getLogger(__name__)


def bm25_scores(data: RetrievalData) -> NDArray[np.float64] | None:
    """Score each query of a collection as Lucene's BM25 ranks it (k1 = 1.5, b = 0.75; no stemming, no stop words).

    Words are runs of letters and digits, at least two of them.

    Returns:
        As of :func:`ese_deploy.evaluate.retrieval.query_scores`; None where bm25s is not installed, or no document has
        a word.
    """
    if importlib.util.find_spec("bm25s") is None:
        _LOG.warning("%s has no BM25 baseline, which needs bm25s. %s", data.name, install_hint("evaluate"))
        return None
    import bm25s

    # The library logs each step.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    documents = bm25s.tokenize(data.documents, stopwords=None, show_progress=False)
    if not documents.vocab:
        return None
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(documents, show_progress=False)
    queries = bm25s.tokenize(data.queries, stopwords=None, return_ids=False, show_progress=False)
    found, _ = index.retrieve(queries, k=min(_TOP, len(data.documents)), show_progress=False)
    return score_rankings(np.asarray(found, np.int64), data)
