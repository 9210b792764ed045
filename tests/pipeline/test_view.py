"""Which documents are queries and which may be examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_builders import documents, make_recipe, run, text_of, write_corpus

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.steps import SelectSettings
from bioie_ray.pipeline.view import View, normalised_digest

Documents = list[tuple[str, str, str]]


def view(folder: Path, splits: dict[str, Documents], seed: int = 0, **select: Any) -> View:
    source = write_corpus(folder / "bc5cdr", **splits)
    store = run(folder, job="prepare_corpora", source=str(source), prepare={"documents_per_shard": 5})
    return View(Output(StoreAddress(str(store)), "corpora/bc5cdr@1"), SelectSettings(**select), seed)


def query_ids(view: View) -> list[str]:
    return [id_ for unit in view.query_units() for id_ in view.queries(unit, ["id"])["id"].to_pylist()]


def pool_ids(view: View) -> set[str]:
    ids = {id_ for shard in view.pool_shards() for id_ in view.corpus.read_shard(shard, ["id"])["id"].to_pylist()}
    return ids - view.exclusions().ids


def test_test_queries_see_all_of_train_when_nothing_is_a_twin(tmp_path: Path) -> None:
    made = view(tmp_path, {"train": documents(range(12)), "test": documents(range(20, 23), "t")})
    assert query_ids(made) == ["t020", "t021", "t022"]
    assert len(pool_ids(made)) == 12
    assert made.exclusions().num_queries == made.exclusions().num_duplicate_texts == 0


def test_documents_with_the_text_of_a_test_document_are_left_out_whatever_their_case_and_spaces(tmp_path: Path) -> None:
    title, abstract = text_of(20)
    twins = [("same", title, abstract), ("upper", title.upper(), abstract.upper()), ("spaced", title.replace(" ", "  "), f" {abstract} ")]
    made = view(tmp_path, {"train": [*documents(range(6)), *twins], "test": documents([20], "t")})
    assert pool_ids(made) == {f"d{n:03d}" for n in range(6)}
    assert (made.exclusions().num_queries, made.exclusions().num_duplicate_texts) == (0, 3)


def test_with_dev_queries_the_texts_of_test_documents_still_stay_out(tmp_path: Path) -> None:
    twin_of_test, twin_of_dev = ("a", *text_of(20)), ("b", *text_of(30))
    splits = {"train": [*documents(range(6)), twin_of_test, twin_of_dev], "dev": documents([30], "v"), "test": documents([20], "t")}
    made = view(tmp_path, splits, queries="dev")
    assert query_ids(made) == ["v030"]
    assert pool_ids(made) == {f"d{n:03d}" for n in range(6)}


def test_queries_out_of_the_pool_are_counted_as_queries(tmp_path: Path) -> None:
    splits = {"train": documents(range(6)), "dev": documents([30, 31], "v"), "test": documents([20], "t")}
    made = view(tmp_path, splits, queries="dev", pool=["train", "dev"])
    assert pool_ids(made) == {f"d{n:03d}" for n in range(6)}
    assert (made.exclusions().num_queries, made.exclusions().num_duplicate_texts) == (2, 0)


def test_a_carved_dev_split_is_neither_in_the_pool_nor_lost(tmp_path: Path) -> None:
    made = view(tmp_path, {"train": documents(range(40)), "test": documents([50], "t")}, queries="dev", dev_share=0.25)
    queries = query_ids(made)
    assert len(queries) == len(set(queries)) == 10
    assert made.query_units() == [f"dev-{n:05d}" for n in range(8)]
    assert pool_ids(made) | set(queries) == {f"d{n:03d}" for n in range(40)}
    assert not pool_ids(made) & set(queries)
    assert made.exclusions().num_queries == 10
    other = View(made.corpus, made.settings, seed=1)
    assert set(query_ids(other)) != set(queries)
    assert query_ids(View(made.corpus, made.settings, seed=0)) == queries


def test_twins_of_carved_queries_leave_the_pool(tmp_path: Path) -> None:
    train = [*documents(range(20)), *((f"twin{n}", *text_of(n)) for n in range(20))]
    made = view(tmp_path, {"train": train, "test": documents([50], "t")}, queries="dev", dev_share=0.1)
    texts = {id_: " ".join(parts) for id_, *parts in train}
    asked = {texts[id_] for id_ in query_ids(made)}
    assert len(query_ids(made)) == 4
    assert not asked & {texts[id_] for id_ in pool_ids(made)}


def test_a_split_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    made = view(tmp_path, {"train": documents(range(4))})
    with pytest.raises(ValueError, match=r"has no test split \(it has train\); set select\.queries to one it has, or to dev"):
        made.query_units()
    poolless = View(made.corpus, SelectSettings(pool=("dev",)), 0)
    with pytest.raises(ValueError, match=r"has no dev split to take examples from; set select\.pool"):
        poolless.pool_shards()


def test_a_pool_that_is_all_queries_is_refused(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "bc5cdr", train=documents(range(6)), test=documents([20], "t"))
    with pytest.raises(ValueError, match="no document is left to be an example"):
        run(tmp_path, source=str(source), select={"method": "ders", "queries": "train"})
    assert not (tmp_path / "store/selections/r@1/record.json").exists()


def test_a_recipe_cannot_put_test_documents_into_the_pool(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never from a test split"):
        make_recipe(tmp_path, select={"pool": ["train", "test_ner"]})


@given(st.text(), st.text(" \t\n", max_size=3))
def test_texts_count_as_one_whatever_the_white_space_around_and_the_case(text: str, space: str) -> None:
    assert normalised_digest(f"{space}{text}{space}") == normalised_digest(text)
    assert normalised_digest(text.casefold()) == normalised_digest(text)


def test_other_words_are_another_text() -> None:
    assert normalised_digest("IL-2 rises") != normalised_digest("IL-3 rises")
    assert normalised_digest("in flow") != normalised_digest("inflow")
    assert normalised_digest("\ufb02uid") == normalised_digest("fluid")
