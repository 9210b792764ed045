from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bioie_ray.corpora.document import Argument, Document
from bioie_ray.corpora.formats.biorelex import BioRelExReader
from bioie_ray.corpora.reading import Read, Rejected, SourceError


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    text = "NF-κB (p65) binds IκB, and p65 binds itself."
    entity = {"is_state": False, "label": "protein", "is_mentioned": True, "is_mutant": False}
    grounding = {"source": "uniprot", "link": "https://www.uniprot.org/uniprot/Q04206", "organism": "Homo sapiens"}
    return {
        "id": f"x.train.{number}",
        "paperid": "1",
        "url": None,
        "text": text,
        "entities": [
            {
                **entity,
                "grounding": grounding,
                "names": {
                    "NF-κB": {"is_mentioned": True, "mentions": [[0, 5]]},
                    "p65": {"is_mentioned": True, "mentions": [[7, 10], [27, 30]]},
                },
            },
            {**entity, "grounding": None, "names": {"IκB": {"is_mentioned": True, "mentions": [[18, 21]]}}},
        ],
        "interactions": [
            {"participants": [0, 1], "type": "bind", "implicit": False, "label": 1},
            {"participants": [0, 1], "type": "bind", "implicit": True, "label": -1},
            {"participants": [0, 0], "type": "bind", "implicit": False, "label": 0},
        ],
        **changes,
    }


def write(folder: Path, *records: Any, name: str = "1.0alpha7.train.json", indent: int | None = 1) -> Path:
    path = folder / name
    path.write_text(json.dumps(list(records), indent=indent), encoding="utf-8")
    return path


def read(source: Path, split: str = "train") -> list[Read]:
    reader = BioRelExReader()
    return list(reader.read(reader.discover(source), split))


def read_one(folder: Path, **changes: Any) -> Read:
    write(folder, record(**changes))
    (item,) = read(folder)
    return item


def test_every_name_of_a_cluster_is_mentioned_and_interactions_join_clusters(tmp_path: Path) -> None:
    document = read_one(tmp_path)
    assert isinstance(document, Document)
    assert [(m.text, m.entity_id, m.type) for m in document.mentions] == [
        ("NF-κB", "0", "protein"),
        ("p65", "0", "protein"),
        ("p65", "0", "protein"),
        ("IκB", "1", "protein"),
    ]
    assert all(document.text[m.spans[0].start : m.spans[0].end] == m.text for m in document.mentions)
    assert [m.concept_ids for m in document.mentions] == [("uniprot:Q04206",)] * 3 + [()]
    assert [(r.label, r.counted, [a.ref for a in r.arguments]) for r in document.relations] == [
        ("1", True, ["0", "1"]),
        ("-1", True, ["0", "1"]),
        ("0", True, ["0", "0"]),
    ]
    assert document.relations[0].arguments[0] == Argument("entity", "0")
    assert [r.attributes["implicit"] for r in document.relations] == [False, True, False]


def test_nothing_of_the_source_is_lost(tmp_path: Path) -> None:
    document = read_one(tmp_path)
    assert isinstance(document, Document)
    assert document.attributes["paperid"] == "1"
    assert document.attributes["entities"][0]["grounding"]["organism"] == "Homo sapiens"
    assert document.attributes["entities"][1]["is_mutant"] is False


@pytest.mark.parametrize("prefix", ["", "1.0alpha7.", "BioRelEx_"])
def test_dev_is_the_test_split(tmp_path: Path, prefix: str) -> None:
    write(tmp_path, record(), name=f"{prefix}train.json")
    write(tmp_path, record(1), name=f"{prefix}dev.json")
    files = BioRelExReader().discover(tmp_path)
    assert [(file.name, file.split) for file in files] == [
        (f"{prefix}train.json", "train"),
        (f"{prefix}dev.json", "test"),
    ]
    assert [d.split for d in read(tmp_path, "test")] == ["test"]
    (single,) = BioRelExReader().discover(tmp_path / f"{prefix}dev.json")
    assert single.split == "test"


def test_two_versions_of_a_split_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, record(), name="1.0alpha6.train.json")
    write(tmp_path, record(), name="1.0alpha7.train.json")
    with pytest.raises(SourceError, match=r"1.0alpha6.train.json and 1.0alpha7.train.json are both train"):
        BioRelExReader().discover(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text": None}, "the record: `text` is null, not of type str"),
        ({"entities": {}}, "`entities` is {}, not of type list"),
        ({"entities": [7], "interactions": []}, "entity 0 is 7, not of type dict"),
        (
            {"interactions": [{"participants": [0, 2], "type": "bind", "label": 1}]},
            "joins entity 2, but there are only 2",
        ),
        ({"interactions": [{"participants": [0], "type": "bind", "label": 1}]}, "participants has 1 numbers, not 2"),
        ({"interactions": [{"participants": [0, True], "type": "bind", "label": 1}]}, "is true, not of type int"),
        ({"interactions": [{"participants": [0, 1], "type": "bind"}]}, "interaction 0 has no `label`"),
        ({"text": "NF-κB binds"}, "'p65' at 7-10, but the text has 'ind' there"),
        ({"text": "NF-κB (p65) binds IκB"}, "'p65' at 27-30 is not inside the text of 21 characters"),
    ],
)
def test_a_bad_record_is_rejected_with_its_reason_and_the_others_survive(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    write(tmp_path, record(0), record(1, **changes), record(2))
    first, bad, last = read(tmp_path)
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert isinstance(bad, Rejected)
    assert bad.id == "x.train.1"
    assert reason in bad.reason
    lines = (tmp_path / bad.file).read_text().splitlines()
    assert bad.line is not None
    assert lines[bad.line - 1].strip() == "{"
    assert json.loads(bad.raw)["id"] == "x.train.1"


def test_a_record_that_is_no_object_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, record(), "what")
    _, bad = read(tmp_path)
    assert isinstance(bad, Rejected)
    assert bad.id is None
    assert "a record is" in bad.reason


def test_counts_of_the_real_part_equal_an_independent_count(corpora_dir: Path) -> None:
    folder = corpora_dir / "biorelex"
    for split, name, num_records in (("train", "train.json", 120), ("test", "dev.json", 30)):
        source = (folder / name).read_text(encoding="utf-8")
        documents = [d for d in read(folder, split) if isinstance(d, Document)]
        assert len(documents) == source.count('"paperid"') == num_records
        spans = sum(len(re.findall(r"\[\d+, \d+\]", found)) for found in re.findall(r'"mentions": (\[\[.*?\]\])', source))
        assert sum(len(d.mentions) for d in documents) == spans
        labels = re.findall(r'"participants": [^}]*?"label": (-?\d)', source)
        assert [r.label for d in documents for r in d.relations] == labels
