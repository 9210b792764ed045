from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from review_client import Client, serving
from review_items import a_queue

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.dmcr.decision_log import DecisionLog


@pytest.fixture
def log(tmp_path: Path) -> DecisionLog:
    return DecisionLog(Output(StoreAddress(str(tmp_path)), "dmcr/x@1"))


@pytest.fixture
def client(log: DecisionLog) -> Iterator[Client]:
    with serving(a_queue(), log) as client:
        yield client


def test_the_page_comes_whole_and_from_nowhere_else(client: Client) -> None:
    page = client("GET", "/")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/review.js", "/review.css"):
        assert path in page.text
        assert client("GET", path).status == 200
    assert "http" not in page.text.replace("http-equiv", "")
    assert client("GET", "/docs").status == client("GET", "/openapi.json").status == 404


def test_an_item_has_all_that_is_needed(client: Client) -> None:
    overview = client("GET", "/api/queue").json()
    assert overview["name"] == "dmcr/diseases@1"
    assert [(item["document_id"], item["repeat"], item["choice"]) for item in overview["items"]][:2] == [
        ("10071832", 1, None),
        ("10071832", 2, None),
    ]
    item = client("GET", "/api/items/0").json()
    assert item["list_b"][-1] == "hyperthyroidism"
    assert item["invented_b"] == ["hyperthyroidism"]
    assert item["standing"] == {"head": "", "winner": None, "last": None, "num_conflicts": 0}
    assert client("GET", "/api/items/6").status == 404
    assert client("GET", "/api/items/-1").status == 404


def test_a_decision_is_saved_at_once(client: Client, log: DecisionLog) -> None:
    standing = client.decide("10071832", "a").json()["standing"]
    [saved] = log.all()
    assert saved.answer_digest == a_queue().item(("10071832", 1)).answer_digest
    assert saved.answers == a_queue().item(("10071832", 1)).list_a
    assert standing["head"] == saved.id
    assert client("GET", "/api/queue").json()["items"][0]["choice"] == "a"
    edited = client.decide("10071832", "edit", saved.id, answers=["x", "y"])
    assert edited.json()["standing"]["winner"]["answers"] == ["x", "y"]
    undone = client.decide("10071832", "undo", edited.json()["standing"]["head"])
    assert undone.json()["standing"]["winner"]["choice"] == "a"


def test_pairs_are_pairs(client: Client, log: DecisionLog) -> None:
    assert client.decide("10071832", "edit", answers=[["a", "b"]], repeat=2).status == 200
    assert log.standing(("10071832", 2)).winner.answers == (("a", "b"),)  # type: ignore[union-attr]


def test_the_second_of_two_reviewers_sees_what_the_first_decided(client: Client, log: DecisionLog) -> None:
    client.decide("10391877", "a", reviewer="Bo")
    refused = client.decide("10391877", "b")
    assert refused.status == 409
    assert refused.json()["standing"]["last"]["reviewer"] == "Bo"
    assert refused.json()["standing"]["winner"]["answers"] == ["acute hepatitis", "jaundice"]
    assert "Bo decided (a)" in refused.json()["detail"]
    again = client.decide("10391877", "b", refused.json()["standing"]["head"])
    assert again.status == 200
    assert log.standing(("10391877", 1)).winner.reviewer == "Ada"  # type: ignore[union-attr]


def test_of_many_at_once_one_is_saved(client: Client, log: DecisionLog) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: client.decide("10391877", "b", reviewer=f"reviewer {number}").status, range(8)))
    assert sorted(answers) == [200] + [409] * 7
    assert log.num_effective() == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"document_id": "nowhere"}, "document 'nowhere', repeat 1 is not to be decided in dmcr/diseases@1"),
        ({"document_id": ["x"]}, "is not to be decided"),
        ({"repeat": 7}, "repeat 7 is not to be decided"),
        ({"choice": "c"}, "choice is 'c'"),
        ({"reviewer": ""}, "reviewer is empty"),
        ({"seen": "x"}, "seen is 'x'"),
        ({"choice": "edit"}, "an edit needs answers"),
        ({"choice": "edit", "answers": [["a", "b"]]}, "the answers to bc5cdr_disease are strings"),
        ({"choice": "edit", "answers": "asthma"}, "neither a list of strings"),
        ({"document_id": "10215554", "choice": "b"}, "proposal B is no list"),
        ({"mood": "good"}, "mood is unknown"),
        ({"choice": "edit", "answers": ["\ud800"]}, "half a surrogate pair"),
    ],
)
def test_what_cannot_be_decided_is_refused_in_a_sentence(client: Client, log: DecisionLog, change: dict[str, object], reason: str) -> None:
    answer = client.decide(**{"document_id": "10071832", "choice": "a", **change})  # type: ignore[arg-type]
    assert answer.status == 422
    assert reason in answer.json()["detail"]
    assert log.all() == []


def test_a_store_that_is_full_is_said_and_nothing_looks_saved(client: Client, log: DecisionLog, tmp_path: Path) -> None:
    (tmp_path / "dmcr").write_text("a file where a folder should be")
    answer = client.decide("10071832", "a")
    assert answer.status == 503
    assert "cannot write" in answer.json()["detail"]


def test_export_and_import(client: Client, log: DecisionLog) -> None:
    client.decide("10071832", "a")
    exported = client("GET", "/api/export")
    assert exported.headers["content-disposition"] == 'attachment; filename="decisions.jsonl"'
    lines = [json.loads(line) for line in exported.text.splitlines()]
    assert [line.get("choice") for line in lines] == ["a", None, None, None, None, None]
    lines[2] |= {"choice": "a", "reviewer": "Cy"}
    text = "\n".join(json.dumps(line) for line in lines)
    assert client("POST", "/api/import", {"name": "w.jsonl", "text": text}).json() == {
        "added": 1,
        "known": 1,
        "refused": 0,
        "not_taken": [],
    }
    assert log.num_effective() == 2
    bad = client("POST", "/api/import", {"name": "w.jsonl", "text": text + "\n{"})
    assert bad.status == 422
    assert bad.json()["detail"].startswith("w.jsonl, line 7: no JSON")
