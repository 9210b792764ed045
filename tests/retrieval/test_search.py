from __future__ import annotations

import math
import weakref
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.retrieval import search
from bioie_ray.retrieval.search import Hit, mmr, relevance, search_shards


def by_definition(queries: np.ndarray, ids: list[str], vectors: np.ndarray, k: int) -> list[list[Hit]]:
    """Score every pair with a correctly rounded float64 sum, round to float32, sort by (-score, id)."""
    results = []
    for query in queries.tolist():
        scores = [math.fsum(a * b for a, b in zip(query, vector, strict=True)) for vector in vectors.tolist()]
        rounded = np.asarray(scores, dtype=np.float32).tolist()
        results.append([Hit(id_, score) for score, id_ in sorted(zip((-s for s in rounded), ids, strict=True))][:k])
    return [[Hit(hit.id, 0.0 - hit.score) for hit in hits] for hits in results]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def pools(draw: st.DrawFn) -> tuple[np.ndarray, list[str], np.ndarray, list[int], int]:
    """Queries, ids in random order, vectors with duplicates and last-bit neighbours, shard boundaries, k."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(0, 120))
    dimensions = draw(st.sampled_from([2, 5, 48]))
    distinct = unit(rng.normal(size=(draw(st.integers(1, 6)), dimensions)))
    vectors = distinct[rng.integers(len(distinct), size=size)].copy()
    for row in np.flatnonzero(rng.random(size) < draw(st.sampled_from([0.0, 0.5]))):
        column = rng.integers(dimensions)
        vectors[row, column] = np.nextafter(vectors[row, column], np.float32(rng.choice([-2, 2])))
    queries = unit(rng.normal(size=(draw(st.integers(1, 25)), dimensions)))
    queries[0] = distinct[0]
    ids = [f"d{number:03}" for number in rng.permutation(size).tolist()]
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=6)))
    return queries, ids, vectors, [0, *cuts, size], draw(st.integers(1, size + 5))


@settings(max_examples=200, deadline=None)
@given(pools())
def test_shards_give_what_the_definition_says(pool: tuple[np.ndarray, list[str], np.ndarray, list[int], int]) -> None:
    queries, ids, vectors, cuts, k = pool
    shards = [(ids[a:b], vectors[a:b]) for a, b in pairwise(cuts)]
    assert search_shards(queries, shards, k) == by_definition(queries, ids, vectors, k)
    assert search_shards(queries, reversed(shards), k) == search_shards(queries, [(ids, vectors)], k)


def test_hundreds_of_ties_at_the_boundary_are_decided_by_id() -> None:
    # the smallest ids are the last rows
    size = 400
    vectors = np.zeros((size, 8), dtype=np.float32)
    vectors[:, 0] = 1.0
    ids = [f"d{size - row:04}" for row in range(size)]
    [hits] = search_shards(vectors[:1], [(ids, vectors)], 3)
    assert hits == [Hit("d0001", 1.0), Hit("d0002", 1.0), Hit("d0003", 1.0)]


def test_near_ties_are_ordered_by_exact_scores_whatever_the_number_of_queries() -> None:
    rng = np.random.default_rng(5)
    centre = unit(rng.normal(size=(1, 384)))
    vectors = (centre + rng.normal(scale=2e-9, size=(500, 384))).astype(np.float32)
    ids = [f"d{row:03}" for row in range(500)]
    queries = unit(centre + rng.normal(scale=0.02, size=(40, 384)))
    together = search_shards(queries, [(ids, vectors)], 10)
    assert together == by_definition(queries, ids, vectors, 10)
    assert together == [search_shards(query[None], [(ids, vectors)], 10)[0] for query in queries]


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    vectors, queries = unit(rng.normal(size=(300, 16))), unit(rng.normal(size=(50, 16)))
    ids = [f"d{row:03}" for row in range(300)]
    whole = search_shards(queries, [(ids, vectors)], 12, threads=2)
    monkeypatch.setattr(search, "_BLOCK_QUERIES", 7)
    monkeypatch.setattr(search, "_BLOCK_ROWS", 11)
    monkeypatch.setattr(search, "_BLOCK_NUMBERS", 50)
    assert search_shards(queries, [(ids, vectors)], 12) == whole


def test_one_shard_is_held_at_a_time() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def shards():
        for number in range(4):
            assert all(reference() is None for reference in alive)
            vectors = unit(np.random.default_rng(number).normal(size=(50, 4)))
            alive.append(weakref.ref(vectors))
            yield [f"{number}-{row:02}" for row in range(50)], vectors
            del vectors

    assert [len(hits) for hits in search_shards(unit(np.ones((2, 4))), shards(), 60)] == [60, 60]
    assert len(alive) == 4


def test_an_empty_pool_and_no_queries_are_no_error() -> None:
    query = np.ones((1, 3), dtype=np.float32)
    assert search_shards(query, [], 5) == [[]]
    assert search_shards(query, [([], np.empty((0, 3), dtype=np.float32))], 5) == [[]]
    assert search_shards(query[:0], [(["a"], query)], 5) == []


def test_a_memory_mapped_shard_is_searched(tmp_path) -> None:
    vectors = unit(np.random.default_rng(3).normal(size=(30, 6)))
    np.save(tmp_path / "shard.npy", vectors)
    mapped = np.load(tmp_path / "shard.npy", mmap_mode="r")
    ids = [f"d{row:02}" for row in range(30)]
    assert search_shards(vectors[:4], [(ids, mapped)], 5) == by_definition(vectors[:4], ids, vectors, 5)


@pytest.mark.parametrize(
    ("queries", "ids", "vectors", "k", "message"),
    [
        (np.ones((1, 3)), ["a"], np.ones((1, 4)), 5, "queries have 3 dimensions but the shard of 'a' has 4"),
        (np.ones((1, 3)), ["a", "b"], np.ones((1, 3)), 5, "2 ids has vectors of shape"),
        (np.ones((1, 3)), ["a", "b"], np.array([[1, 1, 1], [1, np.nan, 1]]), 5, "vector of 'b'"),
        (np.full((1, 3), np.inf), ["a"], np.ones((1, 3)), 5, "query vector"),
        (np.ones(3), ["a"], np.ones((1, 3)), 5, "queries have shape"),
        (np.ones((1, 3)), ["a"], np.ones((1, 3)), 0, "k is 0"),
    ],
)
def test_senseless_input_is_refused_with_a_reason(queries, ids, vectors, k, message) -> None:
    with pytest.raises(ValueError, match=message):
        search_shards(queries.astype(np.float32), [(ids, vectors.astype(np.float32))], k)


def test_mmr_prefers_the_different_over_the_duplicate() -> None:
    query = np.array([1.0, 0.0], dtype=np.float32)
    near, twin, other = [0.98, 0.2], [0.98, 0.2], [0.9, -0.44]
    vectors = np.array([near, twin, other], dtype=np.float32)
    assert mmr(query, ["a", "b", "c"], vectors, 3) == [0, 2, 1]
    assert mmr(query, ["a", "b", "c"], vectors, 3, lambda_mult=1.0) == [0, 1, 2]


def test_mmr_matches_its_formula_step_by_step() -> None:
    rng = np.random.default_rng(11)
    vectors, query = rng.normal(size=(20, 6)), rng.normal(size=6)
    units, unit_query = unit(vectors).astype(float), query / np.linalg.norm(query)
    chosen = [int(np.argmax(units @ unit_query))]
    for _ in range(7):
        left = [row for row in range(20) if row not in chosen]
        value = {r: 0.3 * units[r] @ unit_query - 0.7 * max(units[r] @ units[c] for c in chosen) for r in left}
        chosen.append(max(value, key=value.__getitem__))
    ids = [f"d{row:02}" for row in range(20)]
    assert mmr(query, ids, vectors, 8, lambda_mult=0.3) == chosen


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_mmr_does_not_depend_on_the_order_of_its_input(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(3, 4)))[rng.integers(3, size=10)]
    ids = [f"d{row}" for row in range(10)]
    order = rng.permutation(10)
    straight = [ids[place] for place in mmr(vectors[0], ids, vectors, k)]
    shuffled = [ids[order[place]] for place in mmr(vectors[0], [ids[row] for row in order], vectors[order], k)]
    assert straight == shuffled
    assert len(set(straight)) == min(k, 10)


def test_mmr_refuses_a_lambda_outside_its_range() -> None:
    with pytest.raises(ValueError, match=r"lambda_mult is 1\.5"):
        mmr(np.ones(2), ["a"], np.ones((1, 2)), 1, lambda_mult=1.5)


def test_relevance_formulas() -> None:
    assert relevance(0.7, "cosine") == 0.7
    a, b = unit(np.array([[1.0, 2.0, 0.5], [0.3, 1.0, -1.0]])).astype(float)
    squared_distance = float(((a - b) ** 2).sum())
    assert relevance(float(a @ b), "langchain") == pytest.approx(1 - squared_distance / math.sqrt(2))
    assert relevance(1.0, "langchain") == 1.0


def test_few_pairs_are_rescored_even_when_every_block_is_better_than_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_BLOCK_ROWS", 100)
    rescored: list[int] = []

    def counting(queries: np.ndarray, query_rows: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        rescored.append(len(rows))
        return rescore(queries, query_rows, vectors, rows)

    rescore = search.rescore
    monkeypatch.setattr(search, "rescore", counting)
    angles = np.linspace(1.5, 0.0, 1000)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ids = [f"d{row:03}" for row in range(1000)]
    [hits] = search_shards(vectors[-1:], [(ids, vectors)], 3)
    assert [hit.id for hit in hits] == ["d999", "d998", "d997"]
    assert sum(rescored) < 100
