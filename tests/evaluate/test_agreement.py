import numpy as np
import pytest
from scipy.stats import rankdata

from ese_deploy.errors import InputError
from ese_deploy.evaluate import agreement, neighbour_overlap


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_set_agrees_with_itself_and_with_any_rotation_of_it() -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(20, 8)))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert agreement(vectors, vectors) == pytest.approx(1)
    assert agreement(vectors @ rotation, vectors) == pytest.approx(1)


def test_it_is_spearmans_correlation_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    first, second = unit(rng.normal(size=(12, 4))), unit(rng.normal(size=(12, 6)))
    pairs = [(i, j) for i in range(12) for j in range(i)]
    ranks = [rankdata([v[i] @ v[j] for i, j in pairs]) for v in (first, second)]
    assert agreement(first, second) == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_sets_of_other_texts_are_refused() -> None:
    with pytest.raises(InputError, match="at least 3 texts, got 4 and 5"):
        agreement(np.eye(4), np.eye(5))
    with pytest.raises(InputError, match="at least 3 texts, got 2 and 2"):
        agreement(np.eye(2), np.eye(2))


def test_vectors_that_give_no_order_agree_in_nothing() -> None:
    full = unit(np.random.default_rng(2).normal(size=(20, 8)))
    broken = full.copy()
    broken[3] = np.nan
    assert agreement(broken, full) == agreement(np.ones((20, 8)), full) == 0
    assert 0.5 < neighbour_overlap(broken, full) < 1
