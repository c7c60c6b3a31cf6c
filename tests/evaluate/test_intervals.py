import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.evaluation import collection_of, pairs
from scipy.stats import pearsonr, spearmanr

from ese_deploy.bundle.manifest import Quality
from ese_deploy.bundle.metrics import RETRIEVAL_METRICS
from ese_deploy.evaluate.bm25 import bm25_scores
from ese_deploy.evaluate.intervals import (
    Resampling,
    interval_of,
    resampled_correlations,
    resampled_means,
    with_intervals,
)
from ese_deploy.target import Target

SETS, PAIRS, LARGER, RESAMPLES = 200, 200, 10, 400


def drawn(seed: int, count: int, resamples: int) -> np.ndarray:
    """The rows of each resample, as the intervals draw them."""
    return np.random.default_rng([seed, count]).integers(count, size=(resamples, count))


def test_a_resample_has_the_correlations_that_scipy_finds_in_it() -> None:
    random = np.random.default_rng(0)
    cosines, scores = random.normal(size=60), np.round(random.normal(size=60))
    spearman, pearson = resampled_correlations(cosines, scores, 7, 12)
    for row, ranks, values in zip(drawn(7, 60, 12), spearman, pearson, strict=True):
        assert ranks == pytest.approx(spearmanr(cosines[row], scores[row]).statistic, abs=1e-12)
        assert values == pytest.approx(pearsonr(cosines[row], scores[row]).statistic, abs=1e-12)
    means = resampled_means(scores[:, None], 7, 12)
    assert means[:, 0] == pytest.approx(scores[drawn(7, 60, 12)].mean(1), abs=1e-12)


def test_blocks_change_no_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    cosines, scores = random.normal(size=40), random.normal(size=40)
    whole = resampled_correlations(cosines, scores, 0, 25)
    monkeypatch.setattr("ese_deploy.evaluate.intervals._BLOCK", 7 * 40)
    assert np.array_equal(whole, resampled_correlations(cosines, scores, 0, 25))


def simulated(seed: int, agreement: float, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines of a full model and of a target, and rounded scores, of ten times as many pairs as a set has."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=LARGER * PAIRS)
    full = agreement * scores + math.sqrt(1 - agreement**2) * random.normal(size=LARGER * PAIRS)
    return full, full + noise * random.normal(size=LARGER * PAIRS), np.round(scores * 1.2)


def test_of_200_sets_93_to_97_percent_have_an_interval_that_holds_the_value_of_a_tenfold_larger_set() -> None:
    inside = np.zeros(2)
    for seed in range(SETS):
        full, target, scores = simulated(seed, 0.75, 0.4)
        whole = [spearmanr(one, scores).statistic for one in (full, target)]
        found = [resampled_correlations(one[:PAIRS], scores[:PAIRS], 0, RESAMPLES)[0] for one in (full, target)]
        for place, (values, truth) in enumerate([(found[1], whole[1]), (found[1] - found[0], whole[1] - whole[0])]):
            low, high = interval_of(values) or (1, 0)
            inside[place] += low <= truth <= high
    assert 0.93 <= inside[0] / SETS <= 0.97, "a figure"
    assert 0.93 <= inside[1] / SETS <= 0.97, "a difference from the full model"


def compared(noise: float) -> Quality:
    """A target's figure beside that of a full model."""
    full, target, scores = simulated(3, 0.75, noise)
    resampling = Resampling()
    figure = Quality(metric="sts_spearman", data="some", data_sha256="0" * 64, n=PAIRS, value=0.5, share_of_full=0.5)
    for name, cosines in ((Target(3, 32), full), (Target(1, 8), target)):
        resampling.add_pairs(name, "0" * 64, cosines[:PAIRS], scores[:PAIRS], [])
    return with_intervals({Target(1, 8): [figure]}, resampling, Target(3, 32), resampling)[Target(1, 8)][0]


def test_a_difference_is_seen_where_it_is_large_and_not_where_it_is_noise() -> None:
    assert compared(2.0).differs and compared(2.0).difference is not None
    assert not compared(0.01).differs
    low, high = compared(0.01).interval or (0, 0)
    assert 0.05 < high - low < 0.3


def test_the_mean_of_subsets_and_the_queries_have_intervals() -> None:
    data, search = pairs(60, ["a", "b", "alike"] * 20), collection_of(25, 6)
    scores = np.where(np.array(data.subsets) == "alike", 2.0, data.scores)
    resampling = Resampling(resamples=50)
    random = np.random.default_rng(0)
    resampling.add_pairs(Target(1, 8), "0" * 64, random.normal(size=60), scores, data.subsets)
    resampling.add_queries(Target(1, 8), "1" * 64, random.uniform(size=(6, 4)))
    metrics = {metric for _, metric, _ in resampling.found}
    assert metrics == {"sts_spearman", "sts_pearson", "sts_spearman_mean", "sts_pearson_mean", *RETRIEVAL_METRICS}
    assert all(np.isfinite(values).all() and len(values) == 50 for values in resampling.found.values())
    assert len(search.queries) == 6


def test_bm25_finds_documents_by_their_words() -> None:
    pytest.importorskip("bm25s")
    data = replace(
        collection_of(12, 2),
        documents=["mulch keeps weeds down", "trains leave every hour", "the weather is fine"],
        document_ids=["d0", "d1", "d2"],
        queries=["when do trains leave?", "Weeds, mulch!", "nothing known"],
        query_ids=["q0", "q1", "q2"],
        relevance=[{"d1": 1}, {"d0": 1}, {}],
    )
    scores = bm25_scores(data)
    assert scores is not None and scores[:, 3].tolist() == [1, 1, 0]
    assert bm25_scores(replace(data, documents=["", "", ""])) is None
