"""Drawing tokens: the right distribution, and nothing but a sample's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.generation.sampler import choose, uniform


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 1.0]])
    assert choose(logits, 0.0, 0.9, [0.99, 0.99]) == [1, 0]


def test_draws_follow_temperature_and_nucleus() -> None:
    """Against the definition: 20,000 even quantiles of the uniform number hit each token as often as its share of the nucleus."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    chances = torch.softmax(logits / 0.5, dim=0)
    nucleus = [0]
    while float(chances[nucleus].sum()) < 0.9:
        nucleus.append(nucleus[-1] + 1)
    num = 20_000
    drawn = choose(logits.repeat(num, 1), 0.5, 0.9, [(i + 0.5) / num for i in range(num)])
    shares = np.bincount(drawn, minlength=5) / num
    expected = [float(chances[token] / chances[nucleus].sum()) if token in nucleus else 0.0 for token in range(5)]
    assert shares == pytest.approx(expected, abs=2e-4)


def test_a_nucleus_wider_than_the_first_try_is_whole() -> None:
    """1,000 equally likely tokens: at top_p 0.5 the last quantile is the 500th of them, and at 1.0 the last."""
    logits = torch.zeros(1, 1_000)
    assert len({choose(logits, 1.0, 0.5, [(i + 0.5) / 500])[0] for i in range(500)}) == 500
    assert len({choose(logits, 1.0, 1.0, [(i + 0.5) / 1_000])[0] for i in range(1_000)}) == 1_000


@pytest.mark.parametrize("num", [10, 1_000])
def test_of_equally_likely_tokens_the_lower_ids_come_first(num: int) -> None:
    logits = torch.zeros(1, num)
    logits[0, 3] = 1.0
    drawn = [choose(logits, 1.0, 0.5, [(i + 0.5) / (4 * num)])[0] for i in range(4 * num)]
    first = list(dict.fromkeys(drawn))
    assert first == [3, *(token for token in range(num) if token != 3)][: len(first)]
    assert len(first) > num // 3


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 511),
    st.floats(0.05, 2.0),
    st.floats(0.01, 1.0),
    st.lists(st.lists(st.floats(-50, 50, width=32), min_size=7, max_size=7), min_size=1, max_size=5),
)
def test_a_row_draws_the_same_alone_and_among_others(
    seed: int, step: int, temperature: float, top_p: float, rows: list[list[float]]
) -> None:
    numbers = [uniform(seed + row, step) for row in range(len(rows))]
    together = choose(torch.tensor(rows), temperature, top_p, numbers)
    assert together == [choose(torch.tensor([row]), temperature, top_p, [number])[0] for row, number in zip(rows, numbers, strict=True)]


def test_numbers_depend_on_seed_and_step_alone() -> None:
    first = [uniform(seed, step) for seed in range(20) for step in range(20)]
    again = [uniform(seed, step) for seed in reversed(range(20)) for step in reversed(range(20))]
    assert first == again[::-1]
    assert len(set(first)) == 400
    assert 0.4 < sum(first) / 400 < 0.6
