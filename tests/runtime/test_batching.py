import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ese_deploy.runtime.batching import plan_batches


@given(st.lists(st.integers(0, 600), max_size=80), st.integers(1, 40), st.integers(1, 2000))
def test_every_text_is_in_one_batch_and_both_limits_hold(lengths: list[int], rows: int, tokens: int) -> None:
    batches = plan_batches(np.array(lengths, np.int64), rows, tokens)
    assert sorted(int(index) for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) <= rows
        assert len(batch) * longest <= tokens or len(batch) == 1


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80))
def test_batches_run_from_long_to_short(lengths: list[int]) -> None:
    batches = plan_batches(np.array(lengths, np.int64), 8, 512)
    order = [lengths[index] for batch in batches for index in batch]
    assert order == sorted(lengths, reverse=True)
