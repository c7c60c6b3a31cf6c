"""Quality of every (depth, dim), and retrieval with queries of one depth and documents of another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import AGREEMENT, NEIGHBOURS, RETRIEVAL_METRICS, STS_METRICS
from ese_deploy.errors import InputError
from ese_deploy.evaluate.data import RetrievalData, StsData
from ese_deploy.evaluate.exits import Exit, ExitModel, cut
from ese_deploy.evaluate.full_model import agreement, neighbour_overlap
from ese_deploy.evaluate.intervals import Resampling
from ese_deploy.evaluate.retrieval import RetrievalScore, mean_score, query_scores, score_retrieval
from ese_deploy.evaluate.sts import StsScore, pair_cosines, score_cosines
from ese_deploy.system.progress import Progress, silent
from ese_deploy.target import Target
from ese_deploy.texts.sample import SAMPLE_CORPUS_NAME, sample_corpus, sample_corpus_sha256

__all__ = [
    "AsymmetricCell",
    "Figures",
    "evaluate_asymmetric",
    "evaluate_grid",
    "retrieval_figures",
    "share_figures",
    "with_shares",
]

Vectors = NDArray[np.float32]
Figures = dict[Target, list[Quality]]
"""For each target its figures; until :func:`with_shares`, ``share_of_full`` is NaN."""


@dataclass(frozen=True)
class AsymmetricCell:
    """Retrieval with queries of one exit and documents of another.

    Attributes:
        data: name of the collection.
        dim: dimensions of both sides.
        query: depth of the queries.
        document: depth of the documents.
        comparable: whether the two exits have the same embedding space.
        score: the score.
        share: its nDCG@10 as a share of what queries of the documents' own exit find there.
    """

    data: str
    dim: int
    query: int
    document: int
    comparable: bool
    score: RetrievalScore
    share: float


def evaluate_grid(
    model: ExitModel,
    sts: Sequence[StsData],
    retrieval: Sequence[RetrievalData],
    progress: Progress = silent,
    full: ExitModel | None = None,
    resampling: Resampling | None = None,
) -> tuple[Figures, list[AsymmetricCell]]:
    """Evaluate all targets of a model, and all pairs of fp32 exits of equal dim on the retrieval collections.

    Agreement with the full model and overlap of nearest neighbours, on the sample corpus, are always among
    the figures.

    Each distinct sentence, query and document is embedded once for each exit of a bundle, and once in all by a
    checkpoint. The vectors of all exits are held: 4 bytes x texts x width x exits.

    Args:
        model: a bundle or a checkpoint.
        sts: scored pairs.
        retrieval: retrieval collections.
        progress: called while texts are embedded.
        full: the full model, where ``model`` is without it.
        resampling: collects the figures of resampled pairs and queries, for intervals.

    Returns:
        Figures of each target without shares, and the pairs of exits, the diagonal included.

    Raises:
        InputError: neither ``model`` nor ``full`` has the full model.
    """
    figures: Figures = {target: [] for one in model.exits for target in one.targets}
    own = [item.text for item in sample_corpus()]
    texts = list(dict.fromkeys([*own, *(text for data in sts for text in (*data.first, *data.second))]))
    rows = {text: row for row, text in enumerate(texts)}
    embedded = model.embed(texts, "text", progress)
    reference = _full_vectors(model, embedded, full)[: len(own)]
    for one, vectors in embedded.items():
        for dim, target in zip(one.dims, one.targets, strict=True):
            prefixes = cut(vectors, dim)
            figures[target] += _agreement_figures(prefixes[: len(own)], reference)
            for data in sts:
                first, second = ([rows[text] for text in side] for side in (data.first, data.second))
                cosines = pair_cosines(prefixes[first], prefixes[second])
                figures[target] += _sts_figures(data, score_cosines(cosines, data))
                if resampling is not None:
                    resampling.add_pairs(target, data.sha256, cosines, data.scores, data.subsets)
    pairs = []
    for search in retrieval:
        queries = model.embed(search.queries, "query", progress)
        documents = model.embed(search.documents, "document", progress)
        for one in model.exits:
            for dim, target in zip(one.dims, one.targets, strict=True):
                scores = query_scores(cut(queries[one], dim), cut(documents[one], dim), search)
                figures[target] += retrieval_figures(search, mean_score(scores))
                if resampling is not None:
                    resampling.add_queries(target, search.sha256, scores)
        pairs += evaluate_asymmetric(queries, documents, search, progress)
    return figures, pairs


def evaluate_asymmetric(
    queries: Mapping[Exit, Vectors], documents: Mapping[Exit, Vectors], data: RetrievalData, progress: Progress = silent
) -> list[AsymmetricCell]:
    """Score the queries of every fp32 exit on the documents of every other, for each dim that both have.

    Args:
        queries: for each exit the vectors of ``data.queries``, [q, width].
        documents: for each exit the vectors of ``data.documents``, [d, width].
        data: the collection.
        progress: called after each search.
    """
    exits = [one for one in queries if one.dtype == "fp32"]
    pairs = [(a, b, dim) for a in exits for b in exits for dim in a.dims if dim in b.dims]
    scores = {}
    for done, (a, b, dim) in enumerate(pairs, start=1):
        scores[a, b, dim] = score_retrieval(cut(queries[a], dim), cut(documents[b], dim), data)
        progress("search", done, len(pairs))
    return [
        AsymmetricCell(
            data=data.name,
            dim=dim,
            query=a.depth,
            document=b.depth,
            comparable=a.space == b.space,
            score=score,
            share=_share(score.ndcg_at_10, scores[b, b, dim].ndcg_at_10),
        )
        for (a, b, dim), score in scores.items()
    ]


def with_shares(figures: Figures, full: Sequence[Quality]) -> Figures:
    """Divide each figure by the full model's figure of the same metric and data.

    Where the full model scores 0 or below the share is 1 for a target that is no worse, and 0 for one that is.

    Raises:
        InputError: the full model was not measured on a data set.
    """
    return {target: share_figures(measured, full) for target, measured in figures.items()}


def share_figures(measured: Sequence[Quality], full: Sequence[Quality]) -> list[Quality]:
    """Divide figures by those of the full model; as :func:`with_shares`."""
    values = {(one.metric, one.data_sha256): one.value for one in full}
    return [_with_share(one, values) for one in measured]


def _with_share(figure: Quality, full: Mapping[tuple[str, str], float]) -> Quality:
    value = full.get((figure.metric, figure.data_sha256))
    if value is None:
        raise InputError(f"the full model has no {figure.metric} on {figure.data}, so that no share can be stated")
    return msgspec.structs.replace(figure, share_of_full=_share(figure.value, value))


def _share(value: float, whole: float) -> float:
    return round(value / whole if whole > 0 else float(value >= whole), 6)


def _full_vectors(model: ExitModel, embedded: Mapping[Exit, Vectors], full: ExitModel | None) -> Vectors:
    """The full model's vectors of the sample corpus, and of what else was embedded."""
    for one, vectors in embedded.items():
        if model.full is not None and model.full in one.targets:
            return cut(vectors, model.full.dim)
    if full is None or full.full is None:
        raise InputError(f"{model.name} lacks the full model, with which its targets are compared; name the checkpoint")
    found = full.embed([item.text for item in sample_corpus()])
    return next(cut(vectors, full.full.dim) for one, vectors in found.items() if full.full in one.targets)


def _agreement_figures(vectors: Vectors, full: Vectors) -> list[Quality]:
    values = {AGREEMENT: agreement(vectors, full), NEIGHBOURS: neighbour_overlap(vectors, full)}
    return [
        Quality(
            metric=metric,
            data=SAMPLE_CORPUS_NAME,
            data_sha256=sample_corpus_sha256(),
            n=len(vectors),
            value=round(value, 6),
            share_of_full=float("nan"),
        )
        for metric, value in values.items()
    ]


def _sts_figures(data: StsData, score: StsScore) -> list[Quality]:
    values = (score.spearman, score.pearson, score.spearman_mean, score.pearson_mean)
    return [
        _figure(metric, data, score.n, value)
        for metric, value in zip(STS_METRICS, values, strict=True)
        if value is not None
    ]


def retrieval_figures(data: RetrievalData, score: RetrievalScore) -> list[Quality]:
    """The figures of a score, without shares."""
    values = (score.ndcg_at_10, score.recall_at_10, score.recall_at_100, score.mrr_at_10)
    return [_figure(metric, data, score.n, value) for metric, value in zip(RETRIEVAL_METRICS, values, strict=True)]


def _figure(metric: str, data: StsData | RetrievalData, n: int, value: float) -> Quality:
    return Quality(
        metric=metric,
        data=data.name,
        data_sha256=data.sha256,
        n=n,
        value=round(value, 6),
        share_of_full=float("nan"),
    )
