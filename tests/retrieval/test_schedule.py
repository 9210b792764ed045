from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.retrieval.schedule import epoch_batches, learning_rate


@given(st.lists(st.integers(3, 512), min_size=1, max_size=300), st.integers(1, 16), st.integers(0, 3), st.integers(0, 3))
def test_batches_of_an_epoch_hold_each_pair_once_and_are_seeded(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    batches = epoch_batches(array, size, seed, epoch)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    assert all(len(batch) <= size for batch in batches)
    again = epoch_batches(array, size, seed, epoch)
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]


def test_batches_pad_little_and_differ_between_epochs() -> None:
    lengths = np.random.default_rng(0).integers(10, 512, size=640)
    batches = epoch_batches(lengths, 8, 0, 0)
    padded = sum(int(lengths[b].max()) * len(b) for b in batches)
    assert padded < 1.1 * lengths.sum()
    first, second = ([b.tolist() for b in epoch_batches(lengths, 8, 0, epoch)] for epoch in (0, 1))
    assert first != second


def test_learning_rate_rises_then_falls_and_never_vanishes() -> None:
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:3] == [0.1, 0.2, pytest.approx(0.3)]
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 90)
    assert learning_rate(0, 1, 1.0, 0.0) == 1.0
