"""The order of rows is a pure function: every row once an epoch, and the same batch at a step whoever computes it."""

from __future__ import annotations

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from bioie_ray.training.order import stream

sizes = st.integers(1, 60)
seeds = st.integers(0, 2**31)


@given(num_rows=sizes, epochs=st.integers(1, 5), seed=seeds)
def test_every_row_comes_once_in_each_epoch(num_rows: int, epochs: int, seed: int) -> None:
    rows = stream(num_rows, num_rows * epochs, seed)
    assert rows.shape == (num_rows * epochs,)
    for epoch in rows.reshape(epochs, num_rows):
        assert sorted(epoch) == list(range(num_rows))


@given(num_rows=sizes, length=st.integers(0, 200), more=st.integers(0, 50), seed=seeds)
def test_a_longer_stream_begins_as_the_shorter_one(num_rows: int, length: int, more: int, seed: int) -> None:
    rows = stream(num_rows, length, seed)
    assert len(rows) == length
    assert np.array_equal(rows, stream(num_rows, length + more, seed)[:length])  # and so: the same call, the same rows


def test_the_batch_of_a_step_has_the_same_rows_however_many_ranks_share_it() -> None:
    """Dealt out by accelerate, as a training's are."""
    batch_size, micro, num_steps = 8, 2, 10
    rows = stream(21, num_steps * batch_size, seed=3)
    for num_ranks in (1, 2, 4):
        loader = DataLoader(rows.tolist(), batch_size=micro, shuffle=False)
        dealt = [
            torch.stack(list(prepare_data_loader(loader, num_processes=num_ranks, process_index=rank, put_on_device=False)))
            for rank in range(num_ranks)
        ]
        share = batch_size // micro // num_ranks  # micro-batches of a rank in a step
        for step in range(num_steps):
            taken = [int(row) for part in dealt for row in part[step * share : (step + 1) * share].flatten()]
            assert sorted(taken) == sorted(rows[step * batch_size : (step + 1) * batch_size].tolist())


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = stream(50, 100, seed=0).reshape(2, 50)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, stream(50, 50, seed=1))
    assert not np.array_equal(first, np.arange(50))
