"""Selections: schema, order, exclusions, counts and determinism, for every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline_builders import best, documents, quarantine, record, rows, run, shards, text_of, vectors, write_corpus

from bioie_ray.pipeline.select_worker import SELECTION_SCHEMA
from bioie_ray.retrieval.selectors import known_methods

QUERIES = [f"t{n:03d}" for n in range(40, 46)]


@pytest.fixture(scope="module")
def settings(corpus: str, embedder: str, cross_encoder: str) -> dict[str, Any]:
    return {"source": corpus, "prepare": {"documents_per_shard": 5}, "embed": {"model": embedder}, "rerank": {"model": cross_encoder}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]) -> Path:
    """A selection by each method, six kept of twelve."""
    cells = [
        {"label": f"{method}-{label}", "method": method, "rerank": rerank}
        for method in known_methods()
        for label, rerank in (("plain", False), ("reranked", True))
    ]
    return run(tmp_path_factory.mktemp("selected"), **settings, select={"k": 12, "keep": 6}, matrix={"select": cells})


def select(folder: Path, settings: dict[str, Any], *, seed: int = 0, name: str = "r", **select: Any) -> Path:
    return run(folder, **settings, name=name, seed=seed, select={"k": 12, "keep": 6, "rerank": False, **select}) / f"selections/{name}@1"


def ranked(output: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(output):
        found.setdefault(row["query_id"], []).append(row)
    return found


@pytest.mark.parametrize("label", ["plain", "reranked"])
@pytest.mark.parametrize("method", known_methods())
def test_every_method_ranks_train_documents_for_every_query(store: Path, method: str, label: str) -> None:
    output = store / f"selections/r-{method}-{label}@1"
    for path in output.glob("*.parquet"):
        assert pq.read_schema(path).equals(SELECTION_SCHEMA)
    assert [path.stem for path in sorted(output.glob("*.parquet"))] == ["test-00000", "test-00001"]
    found = ranked(output)
    few = method == "similarity_score_threshold"
    for query, chosen in found.items():
        assert query in QUERIES
        assert [row["rank"] for row in chosen] == list(range(1, len(chosen) + 1))
        ids = [row["example_id"] for row in chosen]
        assert len(set(ids)) == len(ids) == (6 if not few else len(ids))
        assert all(id_.startswith("d") and int(id_[1:]) < 24 for id_ in ids)
        assert all((row["rerank_score"] is not None) is (label == "reranked") for row in chosen)
        assert all(np.isfinite(row["retrieval_score"]) for row in chosen)
    assert list(best(output)) == QUERIES
    assert best(output) == {query: [row["example_id"] for row in found.get(query, [])] for query in QUERIES}
    made = record(output)
    assert (made["task"], made["method"], made["reranked"]) == ("bc5cdr_disease", method, label == "reranked")
    assert made["counts"]["queries"] == made["queries"]["total"] == 6
    pairs = made["counts"]["pairs_scored"]
    assert pairs == (0 if label == "plain" else pairs if few else 72)


def test_similarity_is_the_cosine_ranking(store: Path) -> None:
    unit = vectors(store / "vectors/bc5cdr-embedder@1")
    pool = sorted(id_ for id_ in unit if id_.startswith("d") and int(id_[1:]) < 24)
    for query, chosen in ranked(store / "selections/r-similarity-plain@1").items():
        scores = {id_: float(unit[id_].astype(np.float64) @ unit[query].astype(np.float64)) for id_ in pool}
        expected = sorted(pool, key=lambda id_: (-np.float32(scores[id_]), id_))[:6]
        assert [row["example_id"] for row in chosen] == expected
        assert [row["retrieval_score"] for row in chosen] == [np.float32(scores[id_]) for id_ in expected]


def test_reranking_orders_the_same_candidates_by_the_cross_encoders_own_scores(tmp_path: Path, settings: dict[str, Any]) -> None:
    from sentence_transformers import CrossEncoder

    plain = select(tmp_path, settings, name="plain", keep=12)
    output = select(tmp_path, settings, name="reranked", keep=12, rerank=True)
    texts = {row["id"]: row["text"] for row in rows(tmp_path / "store/corpora/bc5cdr@1")}
    model = CrossEncoder(settings["rerank"]["model"], device="cpu", max_length=512)
    for query, chosen in ranked(output).items():
        ids = [row["example_id"] for row in chosen]
        assert sorted(ids) == sorted(best(plain)[query])
        scores = [row["rerank_score"] for row in chosen]
        assert scores == sorted(scores, reverse=True)
        assert all(0.0 < score < 1.0 for score in scores)
        np.testing.assert_allclose(scores, model.predict([(texts[query], texts[id_]) for id_ in ids]), atol=1e-5)
    assert any(best(plain)[query] != best(output)[query] for query in QUERIES)


def test_cut_pairs_are_counted(tmp_path: Path, settings: dict[str, Any]) -> None:
    cut = {**settings, "rerank": {**settings["rerank"], "max_length": 16}}
    counts = record(select(tmp_path, cut, rerank=True))["counts"]
    assert counts["pairs_truncated"] == counts["pairs_scored"] == 72
    assert record(select(tmp_path, settings, rerank=True, name="whole"))["counts"]["pairs_truncated"] == 0


def test_a_threshold_that_leaves_few_says_so_per_query(tmp_path: Path, settings: dict[str, Any]) -> None:
    near = ranked(select(tmp_path, settings, name="all", k=24, keep=24))
    scores = sorted(row["retrieval_score"] for chosen in near.values() for row in chosen)
    threshold = scores[-12]
    output = select(tmp_path, settings, method="similarity_score_threshold", k=24, keep=6, options={"threshold": threshold})
    expected = {query: [row["example_id"] for row in chosen if row["retrieval_score"] >= threshold][:6] for query, chosen in near.items()}
    assert best(output) == expected
    short = {query: len(ids) for query, ids in expected.items() if len(ids) < 6}
    assert short
    assert json.loads((output / "short_queries.json").read_text()) == short
    made = record(output)
    assert made["queries"]["short"] == made["counts"]["short_queries"] == len(short)
    none = select(tmp_path, settings, name="none", method="similarity_score_threshold", options={"threshold": 1.0})
    assert best(none) == {query: [] for query in QUERIES}
    assert json.loads((none / "short_queries.json").read_text()) == dict.fromkeys(QUERIES, 0)


def test_full_lists_leave_the_short_queries_empty(store: Path) -> None:
    output = store / "selections/r-similarity-plain@1"
    assert json.loads((output / "short_queries.json").read_text()) == {}
    assert {entry["file"] for entry in record(output)["files"]} == {"best_examples.json", "short_queries.json"}


@pytest.mark.parametrize("method", ["similarity", "mmr", "bm25", "hybrid", "diverse", "balanced", "ders"])
def test_another_run_gives_the_same_bytes(tmp_path: Path, store: Path, settings: dict[str, Any], method: str) -> None:
    again = select(tmp_path, settings, name=f"r-{method}-reranked", method=method, rerank=True)
    ours, theirs = shards(again), shards(store / f"selections/r-{method}-reranked@1")
    assert ours == theirs
    assert {"best_examples.json", "test-00000.parquet"} <= ours.keys()


@pytest.mark.parametrize("method", ["similarity", "bm25", "ders", "fers", "balanced"])
def test_lists_do_not_depend_on_how_the_corpus_is_cut(tmp_path: Path, settings: dict[str, Any], method: str) -> None:
    found = []
    for size in (3, 34):
        (tmp_path / str(size)).mkdir()
        found.append(best(select(tmp_path / str(size), {**settings, "prepare": {"documents_per_shard": size}}, method=method)))
    assert found[0] == found[1]


@pytest.mark.parametrize("method", ["ders", "fers"])
def test_random_draws_are_seeded_and_repeats_are_other_seeds(tmp_path: Path, settings: dict[str, Any], method: str) -> None:
    def draw(name: str, **more: Any) -> dict[str, list[str]]:
        return best(select(tmp_path, settings, name=name, method=method, **more))

    first = draw("a")
    assert draw("b") == first
    second = draw("c", repeat=1)
    assert second != first
    assert draw("d", seed=1) == second
    assert draw("e", seed=2) != first
    sets = {tuple(examples) for examples in first.values()}
    assert len(sets) == (1 if method == "fers" else 6)


def test_a_repeat_changes_nothing_where_nothing_is_drawn(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert best(select(tmp_path, settings, name="a")) == best(select(tmp_path, settings, name="b", repeat=5))


def test_twins_of_test_documents_are_never_examples_and_are_counted(tmp_path: Path, settings: dict[str, Any]) -> None:
    title, abstract = text_of(40)
    train = [*documents(range(10)), ("twin", title.upper(), abstract)]
    source = write_corpus(tmp_path / "bc5cdr", train=train, test=documents(range(40, 42), "t"))
    for method in ("similarity", "bm25", "longest", "ders"):
        output = select(tmp_path, {**settings, "source": str(source)}, name=method, method=method, keep=12)
        assert all(len(examples) == 10 and "twin" not in examples for examples in best(output).values())
        assert record(output)["queries"]["excluded_duplicate_text"] == 1


def test_dev_queries_of_a_corpus_without_dev_are_carved_and_not_offered(tmp_path: Path, settings: dict[str, Any]) -> None:
    source = write_corpus(tmp_path / "bc5cdr", train=documents(range(20)))
    output = select(tmp_path, {**settings, "source": str(source)}, queries="dev", dev_share=0.2, keep=12, k=16)
    chosen = best(output)
    assert len(chosen) == 4
    assert all(len(examples) == 12 and not chosen.keys() & set(examples) for examples in chosen.values())
    assert record(output)["queries"]["excluded_query"] == 4
    assert sorted(path.stem for path in output.glob("*.parquet")) == [f"dev-{n:05d}" for n in range(4)]


def test_a_query_without_a_vector_is_quarantined_and_listed_without_examples(tmp_path: Path, settings: dict[str, Any]) -> None:
    test = [*documents([40], "t"), ("blank", " ", " "), *documents([41], "t")]
    source = write_corpus(tmp_path / "bc5cdr", train=documents(range(10)), test=test)
    output = select(tmp_path, {**settings, "source": str(source)})
    assert {query: len(examples) for query, examples in best(output).items()} == {"t040": 6, "blank": 0, "t041": 6}
    assert [(q["id"], q["reason"]) for q in quarantine(output)] == [("blank", "it has no vector; see the quarantine of the vectors")]
    assert json.loads((output / "short_queries.json").read_text()) == {"blank": 0}
    assert record(output)["counts"]["quarantined"] == 1


def test_a_pair_that_cannot_be_scored_leaves_the_list_and_is_told(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertForSequenceClassification

    real = BertForSequenceClassification.forward

    def forward(model: Any, input_ids: Any = None, **more: Any) -> Any:
        logits = real(model, input_ids=input_ids, **more)
        poison = model.config.vocab_size - 1  # the last word of the vocabulary, "zidovudine"
        logits.logits[(input_ids == poison).any(dim=1)] = float("nan")
        return logits

    monkeypatch.setattr(BertForSequenceClassification, "forward", forward)
    output = select(tmp_path, settings, rerank=True, k=24, keep=24)
    texts = {row["id"]: row["text"] for row in rows(tmp_path / "store/corpora/bc5cdr@1")}
    poisoned = {id_ for id_, text in texts.items() if "zidovudine" in text.lower()}
    pool = {f"d{n:03d}" for n in range(24)}
    assert best(output).keys() - poisoned
    for query, examples in best(output).items():
        assert set(examples) == (set() if query in poisoned else pool - poisoned)
    told = {(q["id"], q["reason"].split()[-1]) for q in quarantine(output)}
    assert told == {(query, id_) for query in QUERIES for id_ in pool if query in poisoned or id_ in poisoned}


def test_more_kept_than_there_are_documents_keeps_them_all(tmp_path: Path, settings: dict[str, Any]) -> None:
    source = write_corpus(tmp_path / "bc5cdr", train=documents(range(3)), test=documents([40, 41], "t"))
    for method in known_methods():
        options = {"threshold": -1.0} if method == "similarity_score_threshold" else {}
        output = select(tmp_path, {**settings, "source": str(source)}, name=method, method=method, rerank=True, options=options)
        found = {query: len(examples) for query, examples in best(output).items()}
        assert found == {"t040": 3, "t041": 3} or method == "bm25", method
        assert record(output)["queries"]["short"] == 2


def test_relation_tasks_select_too(tmp_path: Path, settings: dict[str, Any]) -> None:
    run(tmp_path, **settings, task="bc5cdr_cid", select={"method": "diverse", "k": 12, "keep": 6, "rerank": False})
    assert all(len(examples) == 6 for examples in best(tmp_path / "store/selections/r@1").values())


def test_only_missing_shards_are_made_after_an_interruption(tmp_path: Path, settings: dict[str, Any]) -> None:
    output = select(tmp_path, settings, rerank=True)
    whole = shards(output)
    for name in ("record.json", "best_examples.json", "test-00001.parquet", "_markers/test-00001.json"):
        (output / name).unlink()
    select(tmp_path, settings, rerank=True)
    timings = record(output)["timings"]
    assert (timings["shards_made"], timings["shards_kept"]) == (1, 1)
    assert shards(output) == whole


def test_the_table_reads_as_one_data_set(store: Path) -> None:
    table = pa.concat_tables(pq.read_table(path) for path in sorted((store / "selections/r-mmr-plain@1").glob("*.parquet")))
    assert table.num_rows == 36
