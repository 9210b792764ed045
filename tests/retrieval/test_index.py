from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bioie_ray.config.steps import IndexSettings
from bioie_ray.retrieval.index import build_index, load_index, recall, search_indexes
from bioie_ray.retrieval.search import Hit, search_shards

IVF = IndexSettings(kind="ivf", ivf_lists=16, ivf_probes=6)
HNSW = IndexSettings(kind="hnsw", hnsw_links=12, hnsw_build_depth=60, hnsw_search_depth=80)


@pytest.fixture(scope="module")
def clustered() -> np.ndarray:
    """1,200 unit vectors around 40 centres, as embeddings of texts on 40 topics lie."""
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(40, 32))[rng.integers(40, size=1200)] + rng.normal(scale=0.6, size=(1200, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def shards_of(vectors: np.ndarray, settings: IndexSettings) -> list[tuple[list[str], np.ndarray, object]]:
    cuts = [0, 500, 900, len(vectors)]
    return [
        ([f"d{row:04}" for row in range(a, b)], vectors[a:b], load_index(build_index(vectors[a:b], settings, seed=1)))
        for a, b in pairwise(cuts)
    ]


@pytest.mark.parametrize("settings", [IVF, HNSW], ids=["ivf", "hnsw"])
def test_an_index_finds_nearly_all_and_scores_exactly(clustered: np.ndarray, settings: IndexSettings) -> None:
    shards = shards_of(clustered, settings)
    queries = clustered[::12]
    exact = search_shards(queries, [(ids, vectors) for ids, vectors, _ in shards], 30)
    found = search_indexes(queries, shards, 30)
    assert recall(found, exact) >= 0.98
    everything = search_shards(queries, [(ids, vectors) for ids, vectors, _ in shards], len(clustered))
    scores = [{hit.id: hit.score for hit in hits} for hits in everything]
    for query, hits in enumerate(found):
        assert len(hits) == 30
        assert [hit.score for hit in hits] == [scores[query][hit.id] for hit in hits]
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))


def test_all_cells_probed_equals_exact_search(clustered: np.ndarray) -> None:
    settings = IndexSettings(kind="ivf", ivf_lists=8, ivf_probes=8)
    shards = shards_of(clustered, settings)
    exact = search_shards(clustered[:50], [(ids, vectors) for ids, vectors, _ in shards], 10)
    assert search_indexes(clustered[:50], shards, 10) == exact


def test_a_large_ivf_index_holds_codes_and_is_still_exact_about_what_it_finds() -> None:
    rng = np.random.default_rng(9)
    vectors = rng.normal(size=(100, 48))[rng.integers(100, size=20_000)] + rng.normal(scale=0.7, size=(20_000, 48))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    settings = IndexSettings(kind="ivf", ivf_lists=64, ivf_probes=24)
    ids = [f"d{row:05}" for row in range(20_000)]
    halves = [(ids[:10_000], vectors[:10_000]), (ids[10_000:], vectors[10_000:])]
    built = [build_index(half, settings, seed=3) for _, half in halves]
    assert built == [build_index(half, settings, seed=3) for _, half in halves]
    assert sum(map(len, built)) < vectors.nbytes / 6
    exact = search_shards(vectors[:100], halves, 30)
    found = search_indexes(vectors[:100], [(*half, load_index(data)) for half, data in zip(halves, built, strict=True)], 30)
    assert recall(found, exact) >= 0.97
    assert [hits[0] for hits in found] == [hits[0] for hits in exact]


def test_vectors_may_come_from_a_getter_of_rows(clustered: np.ndarray) -> None:
    shards = shards_of(clustered, IVF)
    fetched: list[int] = []

    def getter(vectors: np.ndarray):
        def fetch(rows: np.ndarray) -> np.ndarray:
            fetched.append(len(rows))
            return vectors[rows]

        return fetch

    lazy = [(ids, getter(vectors), index) for ids, vectors, index in shards]
    assert search_indexes(clustered[:9], lazy, 5) == search_indexes(clustered[:9], shards, 5)
    assert 0 < sum(fetched) < 9 * len(clustered)


@pytest.mark.parametrize("settings", [IVF, HNSW], ids=["ivf", "hnsw"])
def test_the_same_seed_gives_the_same_bytes(clustered: np.ndarray, settings: IndexSettings) -> None:
    first = build_index(clustered, settings, seed=3, threads=2)
    assert build_index(clustered, settings, seed=3, threads=2) == first
    assert build_index(clustered, settings, seed=4, threads=2) != first


@pytest.mark.parametrize("settings", [IVF, HNSW], ids=["ivf", "hnsw"])
def test_rows_without_an_id_are_never_found(clustered: np.ndarray, settings: IndexSettings) -> None:
    index = load_index(build_index(clustered, settings, seed=1))
    all_ids = [f"d{row:04}" for row in range(len(clustered))]
    [unhindered] = search_indexes(clustered[:1], [(all_ids, clustered, index)], 40)
    banned = {hit.id for hit in unhindered[:25]}
    ids = [None if id_ in banned else id_ for id_ in all_ids]
    [hits] = search_indexes(clustered[:1], [(ids, clustered, index)], 15)
    assert hits == unhindered[25:]


def test_a_shard_smaller_than_its_cells_makes_an_index(clustered: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    few = clustered[:7]
    for settings in (IndexSettings(kind="ivf"), IndexSettings(kind="hnsw")):
        index = load_index(build_index(few, settings, seed=0))
        [hits] = search_indexes(few[:1], [(list("abcdefg"), few, index)], 30)
        assert hits == search_shards(few[:1], [(list("abcdefg"), few)], 30)[0]
    assert "WARNING" not in capfd.readouterr().err


def test_recall_counts_the_exact_hits_that_were_found() -> None:
    exact = [[Hit("a", 0.9), Hit("b", 0.8)], [Hit("c", 0.7), Hit("d", 0.1)], []]
    found = [[Hit("b", 0.8), Hit("x", 0.1)], [Hit("d", 0.1), Hit("c", 0.7)], [Hit("y", 0.2)]]
    assert recall(found, exact) == 0.75


def test_flat_has_no_index(clustered: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"index\.kind=flat"):
        build_index(clustered, IndexSettings(kind="flat"), seed=0)


def test_an_empty_shard_has_no_index() -> None:
    with pytest.raises(ValueError, match=r"shape \(0, 4\)"):
        build_index(np.empty((0, 4), dtype=np.float32), IVF, seed=0)


@pytest.mark.parametrize("cut", [0, 10, -8])
def test_a_truncated_index_is_refused(clustered: np.ndarray, cut: int) -> None:
    data = build_index(clustered[:100], HNSW, seed=0)
    with pytest.raises(ValueError, match="no FAISS index"):
        load_index(data[:cut])


def test_an_index_of_other_vectors_is_refused(clustered: np.ndarray) -> None:
    index = load_index(build_index(clustered[:100], IVF, seed=0))
    with pytest.raises(ValueError, match="an index of 100 vectors of 32 dimensions does not fit 99 ids"):
        search_indexes(clustered[:1], [([f"d{row}" for row in range(99)], clustered[:99], index)], 5)
