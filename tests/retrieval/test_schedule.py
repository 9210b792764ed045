from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.retrieval.schedule import epoch_batches, learning_rate


@given(st.lists(st.integers(0, 9), min_size=1, max_size=100), st.integers(1, 16), st.integers(0, 3), st.integers(0, 3))
def test_batches_of_an_epoch_hold_each_list_once_and_whole_and_are_seeded(lists: list[int], size: int, seed: int, epoch: int) -> None:
    array = np.array(lists, dtype=np.int64)
    batches = epoch_batches(array, size, seed, epoch)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lists)))
    found = [set(array[batch].tolist()) for batch in batches]
    assert sum(map(len, found)) == len(set(lists))  # no list is in two batches
    assert all(len(batch) <= size or len(numbers) == 1 for batch, numbers in zip(batches, found, strict=True))
    again = epoch_batches(array, size, seed, epoch)
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]


def test_lists_share_a_batch_up_to_its_size_and_their_order_differs_between_epochs() -> None:
    lists = np.repeat(np.arange(40), 4)
    first, second = (epoch_batches(lists, 9, 0, epoch) for epoch in (0, 1))
    assert [len(batch) for batch in first] == [8] * 20
    assert [b.tolist() for b in first] != [b.tolist() for b in second]


def test_learning_rate_rises_then_falls_and_never_vanishes() -> None:
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:3] == [0.1, 0.2, pytest.approx(0.3)]
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 90)
    assert learning_rate(0, 1, 1.0, 0.0) == 1.0
