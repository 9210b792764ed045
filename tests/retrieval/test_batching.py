from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.retrieval.batching import bisect, is_out_of_memory, token_budget_batches

lengths_lists = st.lists(st.integers(0, 600), max_size=80)


@given(lengths_lists, st.integers(1, 4_000))
def test_every_sequence_is_in_exactly_one_batch_and_batches_fit_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_budget_batches(lengths, budget)
    assert sorted(np.concatenate([*batches, []]).astype(int).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(lengths_lists, st.integers(1, 4_000))
def test_batches_are_filled_and_fall_in_length(lengths: list[int], budget: int) -> None:
    batches = token_budget_batches(lengths, budget)
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(lengths, reverse=True)
    for batch in batches[:-1]:  # one more sequence would not have fitted
        assert (len(batch) + 1) * max(1, *(lengths[i] for i in batch)) > budget


def test_equal_lengths_keep_their_order() -> None:
    assert [batch.tolist() for batch in token_budget_batches([5, 7, 5, 7, 5], 14)] == [[1, 3], [0, 2], [4]]


def test_a_sequence_beyond_the_budget_is_alone() -> None:
    assert [batch.tolist() for batch in token_budget_batches([3, 900, 3], 100)] == [[1], [0, 2]]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="set batch_tokens"):
        token_budget_batches([1], 0)


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_bisect_singles_out_just_the_bad_rows(num_rows: int, bad: set[int]) -> None:
    def double(rows: np.ndarray) -> np.ndarray:
        if bad & set(rows.tolist()):
            raise ValueError("spoiled")
        return rows * 2

    done, failed = bisect(double, np.arange(num_rows))
    assert {row: value for rows, values in done for row, value in zip(rows, values, strict=True)} == {
        row: 2 * row for row in range(num_rows) if row not in bad
    }
    assert failed == dict.fromkeys(sorted(row for row in bad if row < num_rows), "ValueError: spoiled")


def test_a_batch_without_fault_is_done_in_one_piece() -> None:
    done, failed = bisect(len, np.arange(17))
    assert [result for _, result in done] == [17]
    assert not failed


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_lack_of_memory_is_not_blamed_on_a_row(error: Exception) -> None:
    def fail(rows: np.ndarray) -> None:
        raise error

    with pytest.raises(type(error)):
        bisect(fail, np.arange(4))
    assert is_out_of_memory(error)
