from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.evaluation.coverage import bootstrap_mean, bootstrap_ratio, measure, query_coverage, summarise

GOLD = {"q1": {"Aspirin", "ulcer"}, "q2": {"fever"}, "q3": set()}
POOL = {"a": {"ASPIRIN"}, "b": {"Ulcer", "nausea"}, "c": {"cough"}}
TOKENS = {"a": 100, "b": 200, "c": 300}
ANSWERS = st.frozensets(st.text("abAB", min_size=1, max_size=2), max_size=6)


def test_coverage_is_the_share_of_lower_cased_gold_in_the_union_of_the_examples() -> None:
    assert query_coverage({"Aspirin", "ulcer", "rash", "pain"}, [{"ASPIRIN"}, {"Ulcer", "aspirin", "cough"}]) == 0.5
    assert query_coverage({"Aspirin", "ASPIRIN"}, [{"aspirin"}]) == 1.0
    assert query_coverage({"aspirin"}, []) == 0.0
    assert query_coverage(set(), [{"aspirin"}]) is None


@given(ANSWERS.filter(bool), st.lists(ANSWERS, max_size=5), ANSWERS)
def test_one_more_example_never_lowers_coverage_and_the_query_itself_completes_it(
    gold: frozenset[str], shown: list[frozenset[str]], more: frozenset[str]
) -> None:
    before = query_coverage(gold, shown)
    after = query_coverage(gold, [*shown, more])
    assert before is not None
    assert after is not None
    assert 0.0 <= before <= after <= 1.0
    assert query_coverage(gold, [*shown, gold]) == 1.0


def test_measure_counts_queries_without_gold_apart_and_sums_tokens() -> None:
    result = measure([{"q1": ["a", "c"], "q2": ["b"], "q3": []}], GOLD, POOL, TOKENS)
    assert result.coverage == {"q1": 0.5, "q2": 0.0}
    assert result.num_without_gold == 1
    assert result.tokens == {"q1": 400.0, "q2": 200.0, "q3": 0.0}
    assert result.num_examples == {"q1": 2.0, "q2": 1.0, "q3": 0.0}


def test_draws_of_a_random_method_are_averaged_by_query() -> None:
    draws = [{"q1": ["a"], "q2": ["a"], "q3": ["a"]}, {"q1": ["a", "b"], "q2": ["c"], "q3": ["a"]}]
    result = measure(draws, GOLD, POOL, TOKENS)
    assert result.coverage == {"q1": 0.75, "q2": 0.0}
    assert result.tokens["q1"] == 200.0
    assert result.num_draws == 2


def test_measure_refuses_other_queries_and_unknown_examples() -> None:
    with pytest.raises(ValueError, match=r"1 are in only one of the two .first: q3"):
        measure([{"q1": [], "q2": []}], GOLD, POOL, TOKENS)
    with pytest.raises(ValueError, match="query q2: chosen example nowhere"):
        measure([{"q1": ["a"], "q2": ["nowhere"], "q3": []}], GOLD, POOL, TOKENS)
    with pytest.raises(ValueError, match="no draws"):
        measure([], GOLD, POOL, TOKENS)


def test_summary_pairs_queries_with_the_baseline_and_weighs_coverage_by_tokens() -> None:
    chosen = measure([{"q1": ["a", "b"], "q2": ["b"], "q3": ["c"]}], GOLD, POOL, TOKENS)
    drawn = measure([{"q1": ["a"], "q2": ["c"], "q3": ["c"]}], GOLD, POOL, TOKENS)
    summary = summarise(chosen, drawn)
    assert summary.num_queries == 3
    assert summary.coverage is not None
    assert summary.difference is not None
    assert summary.per_1000_tokens is not None
    assert summary.coverage.mean == 0.5
    assert summary.coverage.num == 2
    assert summary.difference.mean == 0.25
    assert summary.per_1000_tokens.mean == pytest.approx(1000 * (1.0 + 0.0) / (300 + 200))
    assert summary.mean_tokens == pytest.approx((300 + 200 + 300) / 3)


def test_summary_of_queries_without_any_gold_has_no_coverage() -> None:
    result = measure([{"q3": ["a"]}], {"q3": set()}, POOL, TOKENS)
    summary = summarise(result, result)
    assert (summary.coverage, summary.difference, summary.per_1000_tokens) == (None, None, None)
    assert summary.num_without_gold == 1


def test_summary_against_a_baseline_over_other_queries_is_refused() -> None:
    one = measure([{"q1": ["a"]}], {"q1": {"aspirin"}}, POOL, TOKENS)
    two = measure([{"q2": ["a"]}], {"q2": {"fever"}}, POOL, TOKENS)
    with pytest.raises(ValueError, match="same split"):
        summarise(one, two)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 5))
def test_interval_is_seeded_and_holds_the_mean_between_the_extremes(values: list[float], seed: int) -> None:
    interval = bootstrap_mean(values, seed, resamples=200)
    assert interval == bootstrap_mean(values, seed, resamples=200)
    assert interval.mean == pytest.approx(np.mean(values))
    assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12


def test_interval_has_the_width_of_the_normal_approximation() -> None:
    values = np.random.default_rng(3).normal(0.4, 0.2, size=400)
    interval = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_does_not_depend_on_how_many_resamples_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(0, 1, 50)
    whole = bootstrap_mean(values, seed=2, resamples=300)
    monkeypatch.setattr("bioie_ray.evaluation.coverage._CELLS_AT_ONCE", 50 * 7)
    assert bootstrap_mean(values, seed=2, resamples=300) == whole


@pytest.mark.parametrize(
    ("top", "bottom"), [([], []), ([1.0], [1.0, 2.0]), ([float("nan")], [1.0]), ([1.0], [0.0]), ([1.0, 1.0], [2.0, -1.0])]
)
def test_ratio_refuses_what_has_no_interval(top: list[float], bottom: list[float]) -> None:
    with pytest.raises(ValueError, match=r"interval over|ratio"):
        bootstrap_ratio(top, bottom)
