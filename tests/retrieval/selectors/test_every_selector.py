"""What holds for every selector, those of files added later included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from bioie_ray.retrieval.selectors import Candidate, Pool, Query, known_methods, make_selector

METHODS = known_methods()


def select(method: str, queries: Sequence[Query], pool: Pool, k: int, keep: int, seed: int = 1) -> list[list[Candidate]]:
    selector = make_selector(method, {"threshold": 0.5} if method == "similarity_score_threshold" else {}, seed)
    retrieved = selector.retrieve(queries, pool, k)
    return [selector.choose(query, found, pool, keep) for query, found in zip(queries, retrieved, strict=True)]


def test_the_selectors_of_the_method_are_there() -> None:
    assert set(METHODS) >= {
        "balanced", "bm25", "ders", "diverse", "fers", "hybrid", "longest", "mmr", "similarity", "similarity_score_threshold",
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("k", "keep"), [(12, 5), (1, 1), (30, 25)])
def test_chosen_are_distinct_documents_of_the_pool(method, k, keep, make_pool, queries) -> None:
    pool = make_pool()
    selector = make_selector(method)
    for query, candidates in zip(queries, selector.retrieve(queries, pool, k), strict=True):
        chosen = selector.choose(query, candidates, pool, keep)
        assert len(candidates) <= k
        assert len(chosen) == min(keep, len(candidates))
        assert len({c.id for c in candidates}) == len(candidates)
        assert len({c.id for c in chosen}) == len(chosen)
        assert set(chosen) <= set(candidates)
        assert {c.id for c in candidates} <= set(pool.ids)


@pytest.mark.parametrize("method", METHODS)
def test_something_is_chosen(method, make_pool, queries) -> None:
    assert all(len(chosen) == 5 for chosen in select(method, queries, make_pool(), 12, 5))


@pytest.mark.parametrize("method", METHODS)
def test_choices_depend_neither_on_sharding_nor_on_the_other_queries(method, make_pool, queries) -> None:
    expected = select(method, queries, make_pool(), 12, 5)
    assert select(method, queries, make_pool(3, reverse=True), 12, 5) == expected
    assert select(method, queries[::-1], make_pool(), 12, 5)[::-1] == expected
    assert [select(method, [query], make_pool(100), 12, 5)[0] for query in queries] == expected


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_pool_and_no_queries_are_no_error(method, make_pool, queries) -> None:
    assert select(method, queries, make_pool(numbers=[]), 12, 5) == [[]] * len(queries)
    assert select(method, [], make_pool(), 12, 5) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_selector_says_what_it_needs(method, make_pool, queries) -> None:
    selector = make_selector(method)
    assert selector.name == method
    assert selector.needs <= {"vectors", "bm25"}
    if "vectors" not in selector.needs:
        bare = [Query(query.id, query.text) for query in queries]
        assert select(method, bare, make_pool(), 12, 5) == select(method, queries, make_pool(), 12, 5)
    else:
        with pytest.raises(ValueError, match="query 'q0' has no vector"):
            selector.retrieve([Query("q0", "tremor")], make_pool(), 5)


@pytest.mark.parametrize("method", METHODS)
def test_only_random_selectors_depend_on_the_seed(method, make_pool, queries) -> None:
    one, two = (select(method, queries, make_pool(), 12, 5, seed) for seed in (1, 2))
    assert (one != two) == (method in {"ders", "fers"})


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'nearest', which no selector is called; use one of balanced, bm25, ders,"):
        make_selector("nearest")
    with pytest.raises(ValueError, match="'base'"):
        make_selector("base")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mmr", {"lamda": 0.3}, r"select\.options\.lamda: .*it takes fetch_k, lambda_mult"),
        ("mmr", {"lambda_mult": 2}, r"select\.options\.lambda_mult: Input should be less than or equal to 1"),
        ("similarity", {"threshold": 0.5}, r"select\.options\.threshold: .*it takes no options"),
        ("similarity_score_threshold", {"relevance": "l2"}, r"select\.options\.relevance: .*'cosine' or 'langchain'"),
    ],
)
def test_wrong_options_are_refused_by_name(method, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_selector(method, options)


def test_selectors_import_neither_ray_nor_torch_nor_faiss() -> None:
    code = """if True:
        import sys
        from bioie_ray.retrieval.selectors import known_methods, make_selector
        for method in known_methods():
            make_selector(method)
        loaded = {"torch", "ray", "faiss", "transformers", "sentence_transformers", "bm25s"} & set(sys.modules)
        sys.exit(f"loaded: {loaded}" if loaded else 0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
