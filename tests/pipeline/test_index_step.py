"""Approximate indexes through a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pipeline_builders import best, documents, record, run, shards, write_corpus


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("index") / "bc5cdr"
    return str(write_corpus(folder, train=documents(range(150)), test=documents(range(200, 216), "t")))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, source: str, embedder: str) -> Path:
    """Selections by exact and by approximate search, over shards of 60 documents."""
    folder = tmp_path_factory.mktemp("indexed")
    for index in ({"kind": "flat"}, {"kind": "ivf", "ivf_lists": 4, "ivf_probes": 3}, {"kind": "hnsw"}):
        store = select(folder, source, embedder, index)
    return store


def select(folder: Path, source: str, embedder: str, index: dict[str, Any], **more: Any) -> Path:
    return run(
        folder,
        name=f"by-{index['kind']}",
        source=source,
        prepare={"documents_per_shard": 60},
        embed={"model": embedder},
        index=index,
        select={"rerank": False, "k": 10, "keep": 10},
        **more,
    )


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_approximate_index_gives_nearly_the_exact_selection(store: Path, kind: str) -> None:
    exact, found = best(store / "selections/by-flat@1"), best(store / f"selections/by-{kind}@1")
    assert list(found) == list(exact)
    shared = sum(len(set(found[query]) & set(exact[query])) for query in exact)
    assert shared >= 0.9 * 10 * len(exact)
    assert record(store / f"selections/by-{kind}@1")["queries"] == {
        "total": 16,
        "short": 0,
        "excluded_query": 0,
        "excluded_duplicate_text": 0,
    }


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_there_is_one_index_a_shard_and_it_is_recorded(store: Path, kind: str) -> None:
    made = record(store / f"indexes/bc5cdr-embedder-{kind}@1")
    assert {shard["shard"]: shard["counts"]["vectors"] for shard in made["shards"]} == {
        "test-00000": 16,
        "train-00000": 60,
        "train-00001": 60,
        "train-00002": 30,
    }
    assert made["index"] == kind
    keys = [i["output"] for i in record(store / f"selections/by-{kind}@1")["inputs"]]
    assert keys == ["corpora/bc5cdr@1", "vectors/bc5cdr-embedder@1", f"indexes/bc5cdr-embedder-{kind}@1"]


def test_exact_search_has_no_index(store: Path) -> None:
    assert sorted(path.name for path in (store / "indexes").iterdir()) == ["bc5cdr-embedder-hnsw@1", "bc5cdr-embedder-ivf@1"]


@pytest.mark.parametrize("index", [{"kind": "ivf", "ivf_lists": 4, "ivf_probes": 3}, {"kind": "hnsw"}], ids=lambda index: index["kind"])
def test_another_run_gives_the_same_bytes(tmp_path: Path, store: Path, source: str, embedder: str, index: dict[str, Any]) -> None:
    again = select(tmp_path, source, embedder, index)
    for key in (f"indexes/bc5cdr-embedder-{index['kind']}@1", f"selections/by-{index['kind']}@1"):
        assert shards(again / key) == shards(store / key)
        assert shards(again / key)


def test_documents_excluded_after_the_index_was_built_are_not_found(tmp_path: Path, embedder: str) -> None:
    twins = [(f"twin{n}", *parts) for n, (_, *parts) in enumerate(documents(range(200, 216)))]
    source = str(write_corpus(tmp_path / "bc5cdr", train=[*documents(range(60)), *twins], test=documents(range(200, 216), "t")))
    store = select(tmp_path, source, embedder, {"kind": "hnsw"})
    chosen = best(store / "selections/by-hnsw@1")
    assert record(store / "selections/by-hnsw@1")["queries"]["excluded_duplicate_text"] == 16
    assert all(len(examples) == 10 for examples in chosen.values())
    assert not any(id_.startswith("twin") for examples in chosen.values() for id_ in examples)


def test_more_cells_probed_than_there_are_is_refused(tmp_path: Path, source: str, embedder: str) -> None:
    with pytest.raises(
        ValueError, match=r"index\.ivf_probes is 9 but there are only index\.ivf_lists=4 cells; set index\.ivf_probes to at most 4"
    ):
        select(tmp_path, source, embedder, {"kind": "ivf", "ivf_lists": 4, "ivf_probes": 9})
