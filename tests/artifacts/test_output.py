from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bioie_ray.artifacts.fingerprint import differences, fingerprint
from bioie_ray.artifacts.output import DriftError, IncompleteError, Output, to_parquet
from bioie_ray.artifacts.store import StoreAddress, StoreError

TABLE = pa.table({"id": ["a", "b"], "n": [1, 2]})


def make(folder: Path, payload: dict[str, Any] | None = None) -> Output:
    return Output(StoreAddress(str(folder)), "corpora/x@1", payload or {"kind": "corpora", "settings": {"k": 1}})


def test_fingerprint_does_not_depend_on_order_but_on_every_value() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert list(differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "d": 4})) == ["a.b: 3 -> 1", "c: null -> 2", "d: 4 -> null"]


def test_same_table_same_bytes() -> None:
    assert to_parquet(TABLE) == to_parquet(pa.table({"id": ["a", "b"], "n": [1, 2]}))


def test_a_shard_is_done_when_its_marker_is_there(tmp_path: Path) -> None:
    output = make(tmp_path)
    output.claim()
    marker = output.commit("train-00000", TABLE, {"documents": 2}, [{"id": "c", "reason": "torn"}])
    assert output.markers() == {"train-00000": marker}
    assert marker.counts == {"documents": 2, "quarantined": 1}
    assert output.read_shard("train-00000", ["n"]).to_pydict() == {"n": [1, 2]}
    quarantine = (tmp_path / "corpora/x@1/_quarantine/train-00000.jsonl").read_text()
    assert json.loads(quarantine) == {"id": "c", "reason": "torn"}
    with pytest.raises(IncompleteError, match=r"not finished \(1 shards done"):
        output.shards()


def test_another_fingerprint_under_the_version_prints_the_difference(tmp_path: Path) -> None:
    make(tmp_path).claim()
    make(tmp_path).claim()  # the same one may join
    other = make(tmp_path, {"kind": "corpora", "settings": {"k": 2}})
    with pytest.raises(DriftError, match=r"settings\.k: 1 -> 2(.|\n)*another version"):
        other.claim()
    with pytest.raises(DriftError):
        other.is_finished()


def test_nobody_is_told_to_delete_what_people_decided(tmp_path: Path) -> None:
    output = make(tmp_path)
    output.claim()
    other = make(tmp_path, {"kind": "corpora", "settings": {"k": 2}})
    with pytest.raises(DriftError, match="or delete that folder"):
        other.claim()
    output.store.create(f"{output.key}/_decisions/one.json", b"{}")
    with pytest.raises(
        DriftError, match=r"another version(.|\n)*Do not delete that folder: people's decisions(.|\n)*--export FILE"
    ) as error:
        other.claim()
    assert "or delete that folder" not in str(error.value)


def test_the_second_writer_learns_that_it_lost(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    first.claim()
    second.claim()
    marker = first.commit("s-0", TABLE, {"n": 1})
    assert second.commit("s-0", TABLE, {"n": 99}) == marker
    assert first.finish({"shards": [{"shard": "s-0"}]})
    assert not second.finish({"shards": []})
    assert second.shards() == ["s-0"]


def test_a_whole_shard_without_marker_is_adopted(tmp_path: Path) -> None:
    output = make(tmp_path)
    theirs = to_parquet(pa.table({"id": ["a", "b"], "n": [1, 3]}))  # last bits may differ on another machine
    output.store.write(output.shard_key("s-0"), theirs)
    marker = output.commit("s-0", TABLE, {})
    assert marker.bytes == len(theirs)
    assert output.store.read(output.shard_key("s-0")) == theirs


def test_a_torn_shard_is_made_again(tmp_path: Path) -> None:
    output = make(tmp_path)
    output.store.write(output.shard_key("s-0"), to_parquet(TABLE)[:40])
    output.commit("s-0", TABLE, {})
    assert output.read_shard("s-0") == TABLE


def test_shards_of_a_split(tmp_path: Path) -> None:
    output = make(tmp_path)
    names = ["test-00000", "test_ner-00000", "train-00001", "train-00000"]
    output.finish({"shards": [{"shard": name} for name in names]})
    assert output.shards(["train"]) == ["train-00000", "train-00001"]
    assert output.shards(["test"]) == ["test-00000"]
    assert len(output.shards()) == 4


def test_an_output_never_takes_a_folder_that_holds_files_of_somebody_else(tmp_path: Path) -> None:
    own = tmp_path / "corpora/x@1/letters/thesis.txt"
    own.parent.mkdir(parents=True)
    own.write_text("years of work")
    with pytest.raises(StoreError, match=r"not of an output \(letters/thesis\.txt\); give the output a folder of its own"):
        make(tmp_path).claim()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["thesis.txt"]


def test_giving_an_output_up_removes_its_own_files_and_no_others(tmp_path: Path) -> None:
    output = make(tmp_path)
    output.claim()
    output.commit("train-00000", TABLE, {}, [{"id": "c", "reason": "torn"}])
    output.note("2 documents")
    folder = tmp_path / "corpora/x@1"
    (folder / "mine").mkdir()
    for name in ("notes.md", "mine/table.parquet"):
        (folder / name).write_text("put here by hand")
    output.discard()
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"_quarantine/train-00000.jsonl", "notes.md", "mine/table.parquet"}


def test_an_output_that_was_given_up_can_be_claimed_again(tmp_path: Path) -> None:
    make(tmp_path).claim()
    make(tmp_path).commit("train-00000", TABLE, {}, [{"id": "c", "reason": "torn"}])
    make(tmp_path).discard()
    make(tmp_path, {"kind": "corpora", "settings": {"k": 2}}).claim()
    assert (tmp_path / "corpora/x@1/_claim.json").exists()
    assert not (tmp_path / "corpora/x@1/_quarantine/train-00000.jsonl").exists()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    output = make(tmp_path)
    output.finish({"shards": []})
    (tmp_path / "corpora/x@1/record.json").write_text('{"shards": [')
    with pytest.raises(IncompleteError, match=r"corpora/x@1: its record\.json is no JSON"):
        output.record()
