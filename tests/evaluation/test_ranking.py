from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from bioie_ray.evaluation.ranking import evaluate_rankings, ndcg

GAINS = st.lists(st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0]), min_size=2, max_size=30)


@given(GAINS, st.integers(1, 12), st.randoms(use_true_random=False))
def test_ndcg_equals_scikit_learn(gains: list[float], k: int, random: object) -> None:
    random.shuffle(gains)  # type: ignore[attr-defined]
    scores = np.arange(len(gains), 0, -1)[None]
    assert ndcg(gains, gains, k) == pytest.approx(ndcg_score(np.array([gains]), scores, k=k))


@given(GAINS, st.integers(1, 12))
def test_the_ideal_order_has_ndcg_one_and_no_order_has_more(gains: list[float], k: int) -> None:
    best = ndcg(sorted(gains, reverse=True), gains, k)
    assert best == pytest.approx(1.0 if any(gains) else 0.0)
    assert ndcg(gains, gains, k) <= best + 1e-12


def test_ndcg_by_hand() -> None:
    assert ndcg([0.0, 1.0], [1.0, 0.0, 0.0], 2) == pytest.approx(1 / math.log2(3))
    assert ndcg([0.5], [1.0, 0.5], 2) == pytest.approx(0.5 / (1 + 0.5 / math.log2(3)))
    assert ndcg([], [1.0], 10) == 0.0


def test_rankings_are_measured_against_the_best_of_the_whole_pool() -> None:
    gold = {"q": {"a", "b"}}
    pool = {"both": {"a", "b"}, "one": {"a"}, "none": {"c"}}
    rows = evaluate_rankings({"good": {"q": ["both", "one"]}, "poor": {"q": ["none", "one"]}}, gold, pool, k=2)
    assert rows["good"]["ndcg"]["mean"] == pytest.approx(1.0)
    assert rows["poor"]["ndcg"]["mean"] == pytest.approx((0.5 / math.log2(3)) / (1 + 0.5 / math.log2(3)))
    assert rows["good"]["coverage"]["mean"] == 1.0
    assert rows["poor"]["coverage"]["mean"] == 0.5
    assert rows["poor"]["k"] == 2


def test_only_the_first_k_count() -> None:
    pool = {"hit": {"a"}, **{f"miss{i}": {"b"} for i in range(3)}}
    ranked = ["miss0", "miss1", "miss2", "hit"]
    rows = evaluate_rankings({"m": {"q": ranked}}, {"q": {"a"}}, pool, k=3)
    assert rows["m"]["ndcg"]["mean"] == 0.0
    assert rows["m"]["coverage"]["mean"] == 0.0
