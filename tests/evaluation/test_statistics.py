from __future__ import annotations

import itertools
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.evaluation.statistics import DocumentCounts, bootstrap_f1, micro_f1, paired_bootstrap, spread

VALUES = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=12)
COUNTS = st.integers(1, 4).flatmap(
    lambda repeats: st.lists(
        st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=repeats, max_size=repeats),
        min_size=2,
        max_size=9,
    )
)


def run(rows: list[list[tuple[int, ...]]]) -> DocumentCounts:
    """From counts by document, then repeat."""
    return DocumentCounts(tuple(f"d{n}" for n in range(len(rows))), np.array(rows, dtype=np.int64).transpose(1, 0, 2))


@given(VALUES)
def test_spread_is_that_of_the_standard_library(values: list[float]) -> None:
    found = spread(values)
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert (found.min, found.max, found.num) == (min(values), max(values), len(values))
    assert found.sd == (pytest.approx(statistics.stdev(values), abs=1e-12) if len(values) > 1 else None)
    assert found.min <= found.mean <= found.max


def test_spread_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no repeats"):
        spread([])


@given(COUNTS)
def test_the_interval_is_about_the_mean_of_micro_scores(rows: list[list[tuple[int, ...]]]) -> None:
    counts = run(rows)
    found = bootstrap_f1(counts, samples=200)
    by_repeat = [tp / (tp + (fp + fn) / 2) if tp else 0.0 for tp, fp, fn in counts.counts.sum(axis=1)]
    assert found.mean == pytest.approx(statistics.fmean(by_repeat))
    assert 0 <= found.low <= found.high <= 1
    assert found.num == len(rows)


def test_the_interval_is_the_one_that_a_plain_loop_over_all_resamples_gives() -> None:
    """Four documents have 256 equally likely resamples, so the exact distribution can be written down."""
    counts = run([[(3, 1, 0), (2, 2, 1)], [(0, 2, 4), (1, 0, 3)], [(5, 0, 0), (4, 1, 1)], [(1, 1, 1), (0, 0, 2)]])
    exact = []
    for drawn in itertools.product(range(4), repeat=4):
        sums = counts.counts[:, list(drawn)].sum(axis=1)
        exact.append(float(np.mean([2 * tp / (2 * tp + fp + fn) for tp, fp, fn in sums])))
    found = bootstrap_f1(counts, samples=60_000)
    assert (found.low, found.high) == pytest.approx(np.percentile(exact, [2.5, 97.5]), abs=0.006)
    wider = bootstrap_f1(counts, samples=60_000, confidence=0.99)
    assert wider.low < found.low < found.high < wider.high


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    held = 0
    for trial in range(200):
        hits = rng.binomial(4, 0.6, size=60)
        sample = DocumentCounts(tuple(map(str, range(60))), np.stack([hits, 4 - hits, 4 - hits], axis=-1)[None])
        found = bootstrap_f1(sample, samples=400, seed=trial)
        held += found.low <= 0.6 <= found.high
    assert 0.90 <= held / 200 <= 0.985


def test_same_seed_same_interval_whatever_the_size_of_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = run([[(n % 5, n % 3, n % 7)] for n in range(40)])
    whole = bootstrap_f1(counts, seed=3)
    monkeypatch.setattr("bioie_ray.evaluation.statistics._CELLS_AT_ONCE", 100)
    assert bootstrap_f1(counts, seed=3) == whole
    assert bootstrap_f1(counts, seed=4) != whole


def test_a_run_against_itself_is_no_different() -> None:
    counts = run([[(3, 1, 0)], [(0, 2, 4)], [(5, 0, 0)]])
    found = paired_bootstrap(counts, counts)
    assert (found.difference.mean, found.difference.low, found.difference.high, found.p) == (0.0, 0.0, 0.0, 1.0)


@given(COUNTS, st.integers(0, 3))
def test_exchanging_the_runs_turns_the_difference_round(rows: list[list[tuple[int, ...]]], seed: int) -> None:
    a = run(rows)
    b = replace(a, counts=a.counts[:1, ::-1])
    one, other = paired_bootstrap(a, b, 200, seed=seed), paired_bootstrap(b, a, 200, seed=seed)
    assert one.difference.mean == pytest.approx(-other.difference.mean)
    assert one.difference.low == pytest.approx(-other.difference.high)
    assert one.p == pytest.approx(other.p)
    assert 0 < one.p <= 1


def test_pairing_sees_a_small_difference_that_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(1, 9, size=200)
    hits = rng.binomial(gold, 0.5)
    better = np.minimum(gold, hits + (rng.random(200) < 0.15))

    def runs(found: np.ndarray) -> DocumentCounts:
        return DocumentCounts(tuple(map(str, range(200))), np.stack([found, gold - found, gold - found], axis=-1)[None])

    one, other = bootstrap_f1(runs(better)), bootstrap_f1(runs(hits))
    assert one.low < other.high, "the two intervals overlap"
    compared = paired_bootstrap(runs(better), runs(hits))
    assert compared.difference.low > 0
    assert compared.p < 0.01


def test_the_p_value_of_equals_is_small_about_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(2)
    small = 0
    for trial in range(200):
        hits = rng.binomial(4, 0.6, size=(2, 60))
        a, b = (DocumentCounts(tuple(map(str, range(60))), np.stack([h, 4 - h, 4 - h], axis=-1)[None]) for h in hits)
        small += paired_bootstrap(a, b, samples=400, seed=trial).p < 0.05
    assert 0.01 <= small / 200 <= 0.10


def test_runs_over_other_documents_are_not_compared() -> None:
    counts = run([[(3, 1, 0)], [(0, 2, 4)]])
    with pytest.raises(ValueError, match=r"runs over 2 and 2 documents cannot be paired \(first: d0\)"):
        paired_bootstrap(counts, replace(counts, documents=("x", "d1")))
    with pytest.raises(ValueError, match="no documents"):
        bootstrap_f1(DocumentCounts((), np.zeros((1, 0, 3), dtype=np.int64)))


def test_micro_f1_of_nothing_is_zero() -> None:
    np.testing.assert_array_equal(micro_f1(np.array([[0, 0, 0], [2, 1, 1], [0, 4, 0]])), [0.0, 2 * 2 / 6, 0.0])
