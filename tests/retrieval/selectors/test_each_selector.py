"""What each selector is for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.retrieval.search import mmr
from bioie_ray.retrieval.selectors import Candidate, make_selector
from bioie_ray.retrieval.selectors.base import draw


def ids(candidates: list[Candidate]) -> list[str]:
    return [candidate.id for candidate in candidates]


def test_similarity_orders_by_cosine(make_pool, queries) -> None:
    pool = make_pool()
    matrix = pool.vectors(pool.ids).astype(np.float64)
    for query, found in zip(queries, make_selector("similarity").retrieve(queries, pool, 20), strict=True):
        cosines = dict(zip(pool.ids, (matrix @ query.vector).astype(np.float32).tolist(), strict=True))
        assert ids(found) == sorted(pool.ids, key=lambda id_: (-cosines[id_], id_))
        assert [c.score for c in found] == [cosines[c.id] for c in found]


def test_mmr_chooses_among_twice_k_nearest_by_default(make_pool, queries) -> None:
    pool = make_pool()
    found = make_selector("mmr").retrieve(queries, pool, 6)
    for query, candidates, nearest in zip(queries, found, pool.nearest(np.stack([q.vector for q in queries]), 12), strict=True):
        places = mmr(query.vector, ids(nearest), pool.vectors(ids(nearest)), 6, 0.5)
        assert candidates == [nearest[place] for place in places]
    nearest_six = make_selector("similarity").retrieve(queries, pool, 6)
    assert found != nearest_six
    assert make_selector("mmr", {"lambda_mult": 1.0}).retrieve(queries, pool, 6) == nearest_six
    only_six = make_selector("mmr", {"fetch_k": 6}).retrieve(queries, pool, 6)
    assert [set(ids(found)) for found in only_six] == [set(ids(found)) for found in nearest_six]


def test_mmr_cannot_choose_more_than_it_fetches(make_pool, queries) -> None:
    with pytest.raises(ValueError, match=r"fetch_k is 4 but select\.k=6 .* at least 6"):
        make_selector("mmr", {"fetch_k": 4}).retrieve(queries, make_pool(), 6)


def test_a_threshold_leaves_fewer(make_pool, queries) -> None:
    pool = make_pool()
    everything = make_selector("similarity").retrieve(queries, pool, 20)
    bar = everything[0][3].score  # a float32 number that the fourth of the first query just reaches
    chosen = make_selector("similarity_score_threshold", {"threshold": bar}).retrieve(queries, pool, 20)
    assert chosen == [[c for c in found if c.score >= bar] for found in everything]
    assert len(chosen[0]) == 4
    assert make_selector("similarity_score_threshold", {"threshold": 1.0}).retrieve(queries, pool, 20) == [[]] * 5


def test_the_default_threshold_is_the_references(make_pool, queries) -> None:
    pool = make_pool()
    everything = make_selector("similarity").retrieve(queries, pool, 20)
    by_cosine = make_selector("similarity_score_threshold").retrieve(queries, pool, 20)
    assert by_cosine == [[c for c in found if c.score >= 0.79] for found in everything]
    by_langchain = make_selector("similarity_score_threshold", {"relevance": "langchain"}).retrieve(queries, pool, 20)
    # 1 - (2 - 2 cos) / sqrt(2) >= 0.79 is cos >= 0.8515
    assert by_langchain == [[c for c in found if c.score >= 1 - 0.21 / 2**0.5] for found in everything]


def test_ders_draws_anew_for_each_query_and_fers_once(make_pool, queries) -> None:
    pool = make_pool()
    ders = [tuple(ids(found)) for found in make_selector("ders", seed=3).retrieve(queries, pool, 5)]
    fers = [tuple(ids(found)) for found in make_selector("fers", seed=3).retrieve(queries, pool, 5)]
    assert len(set(ders)) == len(queries)
    assert len(set(fers)) == 1
    longer = make_selector("ders", seed=3).retrieve(queries, pool, 9)
    assert [tuple(ids(found)[:5]) for found in longer] == ders


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 60), st.integers(0, 70))
def test_a_draw_is_without_replacement_and_starts_with_shorter_ones(seed: int, key: str, size: int, count: int) -> None:
    drawn = draw(seed, key, size, count)
    assert len(drawn) == min(size, count)
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(range(size))
    assert draw(seed, key, size, count // 2) == drawn[: count // 2]
    assert sorted(draw(seed, key, size, size)) == list(range(size))


def test_every_document_is_drawn_equally_often() -> None:
    counts = np.zeros((4, 12))
    for query in range(6000):
        for place, number in enumerate(draw(7, f"query {query}", 12, 4)):
            counts[place, number] += 1
    # 500 each, standard deviation 21
    assert np.abs(counts - 500).max() < 100


def test_draws_never_change() -> None:
    # outputs of earlier runs must stay reproducible: these numbers are part of the format
    assert draw(0, "run", 100, 5) == [35, 92, 67, 7, 28]
    assert draw(42, "query 10074612", 500, 3) == [260, 208, 15]


def test_bm25_finds_shared_rare_words(make_pool, queries) -> None:
    found = make_selector("bm25").retrieve(queries, make_pool(), 3)
    assert [best[0].id for best in found] == ["t00", "t05", "t07", "t10", "t12"]


def test_hybrid_is_reciprocal_rank_fusion(make_pool, queries) -> None:
    pool = make_pool()
    nearest = make_selector("similarity").retrieve(queries, pool, 8)
    lexical = make_selector("bm25").retrieve(queries, pool, 8)
    for constant in (60, 1):
        found = make_selector("hybrid", {"constant": constant}).retrieve(queries, pool, 4)
        for fused, *lists in zip(found, nearest, lexical, strict=True):
            points = {id_: sum(1 / (constant + ids(ranked).index(id_) + 1) for ranked in lists if id_ in ids(ranked)) for id_ in pool.ids}
            assert [(c.id, c.score) for c in fused] == sorted(points.items(), key=lambda item: (-item[1], item[0]))[:4]


def test_diverse_shows_new_concepts_before_better_scores(make_pool, queries) -> None:
    pool = make_pool()
    ranked = [Candidate(id_, 0.9 - 0.1 * place) for place, id_ in enumerate(["t08", "t05", "t07", "t04", "t02", "t09"])]
    chosen = make_selector("diverse").choose(queries[0], ranked, pool, 6)
    # 3 new concepts; 2 of cocaine, diazepam; 2 of cisplatin, carboplatin; then none is new: by rank
    assert ids(chosen) == ["t09", "t07", "t04", "t08", "t05", "t02"]


def test_diverse_prefers_the_better_ranked_of_equals(make_pool, queries) -> None:
    pool = make_pool()
    ranked = [Candidate("t12", 0.1, rerank_score=0.9), Candidate("t00", 0.8, rerank_score=0.5)]
    assert ids(make_selector("diverse").choose(queries[0], ranked, pool, 1)) == ["t12"]


def test_balanced_keeps_the_pools_share_of_documents_without_an_answer(make_pool, queries) -> None:
    pool = make_pool()
    assert pool.share_without_answer == 0.25
    selector = make_selector("balanced")
    for query, candidates in zip(queries, selector.retrieve(queries, pool, 12), strict=True):
        assert sum(not pool.gold(c.id) for c in candidates) == 3
        assert [c.score for c in candidates] == sorted((c.score for c in candidates), reverse=True)
        for keep, num_empty in [(8, 2), (4, 1), (2, 1), (1, 0)]:
            chosen = selector.choose(query, candidates, pool, keep)
            assert sum(not pool.gold(c.id) for c in chosen) == num_empty
            assert [c for c in candidates if c in chosen] == chosen
            empty = [c for c in candidates if not pool.gold(c.id)]
            assert [c for c in chosen if not pool.gold(c.id)] == empty[:num_empty]


def test_balanced_takes_the_nearest_of_either_kind(make_pool, queries) -> None:
    pool = make_pool()
    everything = make_selector("similarity").retrieve(queries, pool, 20)
    for found, ranked in zip(make_selector("balanced").retrieve(queries, pool, 4), everything, strict=True):
        empty = [c for c in ranked if not pool.gold(c.id)][:1]
        answered = [c for c in ranked if pool.gold(c.id)][:3]
        assert found == [c for c in ranked if c in empty + answered]


@pytest.mark.parametrize(("numbers", "num_empty"), [([0, 1, 3, 4, 5], 0), ([2, 6, 11], 3), ([2, 6, 11, 0], 3)])
def test_balanced_fills_up_where_one_kind_is_short(numbers, num_empty, make_pool, queries) -> None:
    pool = make_pool(numbers=numbers)
    selector = make_selector("balanced")
    for query, candidates in zip(queries, selector.retrieve(queries, pool, 10), strict=True):
        chosen = selector.choose(query, candidates, pool, 10)
        assert len(chosen) == len(numbers)
        assert sum(not pool.gold(c.id) for c in chosen) == num_empty


def test_longest_ignores_the_query(make_pool, queries) -> None:
    pool = make_pool()
    found = make_selector("longest").retrieve(queries, pool, 3)
    assert found == [[Candidate("t13", 73.0), Candidate("t03", 61.0), Candidate("t01", 60.0)]] * 5
