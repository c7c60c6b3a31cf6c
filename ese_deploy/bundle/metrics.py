"""The names of quality figures, and how to find one by name."""

from ese_deploy.bundle.manifest import Quality
from ese_deploy.texts.sample import current_name

__all__ = [
    "AGREEMENT",
    "METRICS",
    "METRIC_WORDS",
    "NEIGHBOURS",
    "RETRIEVAL_METRICS",
    "STS_METRICS",
    "describe_quality",
    "find_quality",
]

AGREEMENT = "agreement"
NEIGHBOURS = "neighbour_overlap_at_10"
# The first of each stands for its kind where only the data is named.
STS_METRICS = ("sts_spearman", "sts_pearson", "sts_spearman_mean", "sts_pearson_mean")
RETRIEVAL_METRICS = ("ndcg_at_10", "recall_at_10", "recall_at_100", "mrr_at_10")
METRICS = (AGREEMENT, NEIGHBOURS, *STS_METRICS, *RETRIEVAL_METRICS)

METRIC_WORDS = {
    AGREEMENT: "Agreement with the full model (rank correlation of all pairs)",
    NEIGHBOURS: "Share of the 10 nearest neighbours that the full model finds too",
    "sts_spearman": "Similarity: Spearman correlation with the scores",
    "sts_pearson": "Similarity: Pearson correlation with the scores",
    "sts_spearman_mean": "Similarity: Spearman correlation, mean of the subsets",
    "sts_pearson_mean": "Similarity: Pearson correlation, mean of the subsets",
    "ndcg_at_10": "Retrieval: nDCG of the first 10 documents",
    "recall_at_10": "Retrieval: recall in the first 10 documents",
    "recall_at_100": "Retrieval: recall in the first 100 documents",
    "mrr_at_10": "Retrieval: mean reciprocal rank in the first 10 documents",
}
"""What each metric is, for titles of tables and axes. All are from 0 to 1, or from -1 for correlations."""

_PRIMARY = (AGREEMENT, STS_METRICS[0], RETRIEVAL_METRICS[0])


def find_quality(figures: list[Quality], name: str) -> Quality | None:
    """Find a figure by what a person would call it.

    Args:
        figures: the figures of a target.
        name: a metric (``agreement``), the data (``stsb_test``, or ``stsb`` where only one begins so), or both
            (``sts_pearson@stsb_test``). The data alone means its main metric.

    Returns:
        None where no figure or more than one is meant.
    """
    metric, _, data = name.partition("@")
    if not data:
        metric, data = (metric, "") if metric in METRICS else ("", metric)
    data = current_name(data)
    fitting = [
        figure
        for figure in figures
        if figure.data.startswith(data) and (figure.metric == metric or (not metric and figure.metric in _PRIMARY))
    ]
    exact = [figure for figure in fitting if figure.data == data] or fitting
    return exact[0] if len(exact) == 1 else None


def describe_quality(figures: list[Quality]) -> str:
    """The names under which the figures of a target can be asked for."""
    return ", ".join(dict.fromkeys(f"{figure.metric}@{figure.data}" for figure in figures)) or "none"
