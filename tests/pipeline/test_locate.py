"""Finding outputs by what a person types."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pipeline_builders import documents, run, write_corpus

from bioie_ray.pipeline.locate import locate, locate_all


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locate")
    source = write_corpus(folder / "bc5cdr", train=documents(range(12)), test=documents(range(20, 22), "t"))
    return run(folder, source=str(source), matrix={"select": [{"label": "a", "method": "ders"}, {"label": "b", "method": "fers"}]})


KEYS = ["corpora/bc5cdr@1", "selections/r-a@1", "selections/r-b@1"]


@pytest.mark.parametrize("end", ["", "/"])
def test_an_output_is_found_by_its_folder(store: Path, end: str) -> None:
    found = locate(f"{store}/{KEYS[0]}{end}")
    assert (found.key, found.location) == (KEYS[0], f"{store}/{KEYS[0]}")
    assert found.record()["name"] == "bc5cdr"


def test_a_relative_path_and_a_file_url_will_do(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)
    assert locate(KEYS[0]).record()["kind"] == "corpora"
    monkeypatch.chdir(store / "corpora")
    assert locate("bc5cdr@1").key == KEYS[0]
    assert locate(f"file://{store}/{KEYS[0]}").key == KEYS[0]


@pytest.mark.parametrize("place", ["", "selections"])
def test_a_store_is_not_one_output_and_its_outputs_are_named(store: Path, place: str) -> None:
    with pytest.raises(ValueError, match="not one output but holds several; name one of them") as caught:
        locate(str(store / place))
    listed = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert listed == [str(store / key) for key in KEYS if key.startswith(place)]


def test_nothing_there_and_not_finished_are_two_things(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no output \(no record.json\); outputs are folders like STORE/corpora/bc5cdr@1"):
        locate(str(tmp_path))
    begun = tmp_path / "corpora" / "x@1"
    begun.mkdir(parents=True)
    os.link(store / KEYS[0] / "_claim.json", begun / "_claim.json")
    with pytest.raises(ValueError, match="is not finished"):
        locate(str(begun)).record()
    with pytest.raises(ValueError, match="is not finished"):
        locate_all([str(begun)])


def test_any_output_of_a_store_counts_once(store: Path) -> None:
    found = locate_all([str(store), str(store / KEYS[1]), f"{store}/{KEYS[1]}/"])
    assert [output.key for output in found] == KEYS


@pytest.mark.parametrize("place", ["selections", "selections/r-a@1"])
def test_part_of_a_store_knows_its_store(store: Path, place: str) -> None:
    found = locate_all([str(store / place)])
    assert [output.key for output in found] == [key for key in KEYS if key.startswith(place)]
    assert {output.address.folder for output in found} == {store}


def test_several_stores_below_one_folder(store: Path) -> None:
    found = locate_all([str(store.parent)])
    assert [output.key for output in found] == KEYS
    assert {output.address.folder for output in found} == {store}
