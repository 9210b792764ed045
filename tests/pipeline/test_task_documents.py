"""Which documents of a corpus a model may be trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_builders import documents, run, text_of, write_corpus

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.steps import Split
from bioie_ray.pipeline.task_documents import TaskDocuments


def chosen(folder: Path, splits: tuple[Split, ...], dev_share: float = 0.5) -> tuple[set[str], int, int]:
    """Ids, and how many were left out for dev and for their text."""
    store = run(folder, job="prepare_corpora", source=str(folder / "bc5cdr"), prepare={"documents_per_shard": 5})
    source = TaskDocuments(Output(StoreAddress(str(store)), "corpora/bc5cdr@1"), splits, dev_share, 0)
    parts = [source.read(shard) for shard in source.shards()]
    ids = {document.id for part in parts for document in part.documents}
    return ids, sum(part.num_dev for part in parts), sum(part.num_same_text for part in parts)


@pytest.mark.parametrize(
    ("splits", "left", "num_same_text"),
    [
        (("train",), {"d000", "d001"}, 2),
        (("dev",), {"v030", "v031"}, 1),
        (("train", "dev"), {"d000", "d001", "twin_of_dev", "v030", "v031"}, 2),
    ],
)
def test_the_text_of_a_test_document_is_never_trained_on(
    tmp_path: Path, splits: tuple[Split, ...], left: set[str], num_same_text: int
) -> None:
    title, abstract = text_of(20)
    train = [*documents(range(2)), ("twin_of_test", title.upper(), abstract), ("twin_of_dev", *text_of(30))]
    dev = [*documents([30, 31], "v"), ("v_twin_of_test", title, f"{abstract} ")]
    write_corpus(tmp_path / "bc5cdr", train=train, dev=dev, test=documents([20], "t"))
    assert chosen(tmp_path, splits) == (left, 0, num_same_text)


def test_a_carved_dev_document_with_the_text_of_a_test_document_is_not_trained_on(tmp_path: Path) -> None:
    train = [*documents(range(12)), *((f"twin{n}", *text_of(20)) for n in range(6))]
    write_corpus(tmp_path / "bc5cdr", train=train, test=documents([20], "t"))
    every, _, num_same_text = chosen(tmp_path, ("train", "dev"))
    only_dev, _, num_in_dev = chosen(tmp_path, ("dev",))
    assert every == {f"d{n:03d}" for n in range(12)} > only_dev
    assert num_same_text == 6 > num_in_dev > 0
