from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from review_client import Client, serving
from review_items import ITEMS, a_queue

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.review.queue import ItemQueue


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
        ({"document_id": ["10071832"]}, "document_id is a list, not a text"),
        ({"repeat": 7}, "repeat 7 is not to be decided"),
        ({"repeat": "1"}, "repeat is a text, not a whole number"),
        ({"repeat": True}, "repeat is true or false, not a whole number"),
        ({"repeat": 1.0}, "repeat is a number, not a whole number"),
        ({"choice": "c"}, "choice is 'c'"),
        ({"choice": ["a"]}, "choice is a list, not a text"),
        ({"choice": {"a": "b"}}, "choice is an object, not a text"),
        ({"choice": None}, "choice is null, not a text"),
        ({"reviewer": 7}, "reviewer is a whole number, not a text"),
        ({"seen": ["x"]}, "seen is a list, not a text"),
        ({"queue": {}}, "queue is an object, not a text"),
        ({"answer_digest": None}, "answer_digest is null, not a text"),
        ({"reviewer": ""}, "reviewer is empty"),
        ({"seen": "x"}, "seen is 'x'"),
        ({"choice": "edit"}, "an edit needs answers"),
        ({"choice": "edit", "answers": [["a", "b"]]}, "the answers to bc5cdr_disease are strings"),
        ({"choice": "edit", "answers": "asthma"}, "neither a list of strings"),
        ({"choice": "edit", "answers": {"0": "asthma"}}, "neither a list of strings"),
        ({"choice": "edit", "answers": [["a", 1]]}, "neither a list of strings"),
        ({"choice": "skip", "answers": 7}, "neither a list of strings"),
        ({"document_id": "10215554", "choice": "b"}, "proposal B is no list"),
        ({"mood": "good"}, "mood is unknown"),
        ({"\ud800": "good"}, "\\ud800 is unknown"),
        ({"choice": "edit", "answers": ["\ud800"]}, "half a surrogate pair"),
    ],
)
def test_what_cannot_be_decided_is_refused_in_a_sentence(client: Client, log: DecisionLog, change: dict[str, object], reason: str) -> None:
    answer = client.decide(**{"document_id": "10071832", "choice": "a", **change})  # type: ignore[arg-type]
    assert answer.status == 422
    assert reason in answer.json()["detail"]
    assert log.all() == []


@pytest.mark.parametrize("body", [[], ["a"], "a", 1, None, True])
@pytest.mark.parametrize("path", ["/api/decisions", "/api/import"])
def test_a_body_that_is_no_object_is_refused_in_a_sentence(client: Client, log: DecisionLog, path: str, body: object) -> None:
    answer = client("POST", path, body)
    assert (answer.status, answer.json()) == (422, {"detail": "send a JSON object"})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "text is missing"),
        ({"text": ["a"]}, "text is a list, not a text"),
        ({"text": "", "name": {}}, "name is an object, not a text"),
    ],
)
def test_an_import_of_no_text_is_refused_in_a_sentence(client: Client, body: object, reason: str) -> None:
    answer = client("POST", "/api/import", body)
    assert answer.status == 422
    assert answer.json()["detail"].startswith(reason)


def test_a_page_of_a_release_that_sent_no_digest_is_told_to_load_anew(client: Client, log: DecisionLog) -> None:
    old = {"document_id": "10071832", "repeat": 1, "choice": "a", "answers": None, "reviewer": "Ada", "seen": ""}
    answer = client("POST", "/api/decisions", old)
    assert answer.status == 422
    assert "load it anew" in answer.json()["detail"]
    assert log.all() == []


def made_again(**changes: object) -> ItemQueue:
    return a_queue([replace(ITEMS[0], **changes), *ITEMS[1:]])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "served",
    [
        made_again(answer="thyroid trouble"),
        made_again(list_a=("tremor",)),  # "a" stands for another list now
        made_again(text="Another text."),
        ItemQueue("dmcr/other@1", ITEMS),
        ItemQueue("dmcr/diseases@1", ITEMS, "/another/store/dmcr/diseases@1"),
    ],
    ids=["answer", "proposal", "text", "output", "store"],
)
def test_a_decision_on_what_is_not_served_any_more_is_refused(log: DecisionLog, served: ItemQueue) -> None:
    with serving(a_queue(), log) as client:
        shown = client("GET", "/api/items/0").json()
    with serving(served, log) as client:
        answer = client.decide("10071832", "a", queue=shown["queue"], answer_digest=shown["answer_digest"])
        assert (answer.status, answer.json()["changed"]) == (409, True)
        assert f"this answer is not one of those that are served now, and nothing was saved; they are of {served.name}" in answer.text
        item = client("GET", f"/api/items/0?of={shown['queue']}")
        assert (item.status, item.json()["changed"]) == (409, True)
    assert log.all() == []


def test_a_decision_on_an_answer_with_another_digest_is_refused(client: Client, log: DecisionLog) -> None:
    answer = client.decide("10071832", "a", answer_digest=ITEMS[1].answer_digest)
    assert (answer.status, answer.json()["changed"]) == (409, True)
    assert answer.json()["detail"].startswith("this answer has changed since it was shown, and nothing was saved")
    assert log.all() == []


def test_the_same_answers_are_the_same_queue_for_a_server_that_is_started_again(log: DecisionLog) -> None:
    with serving(a_queue(), log) as client:
        shown = client("GET", "/api/items/0").json()
    with serving(a_queue(), log) as client:
        assert client.decide("10071832", "a", queue=shown["queue"], answer_digest=shown["answer_digest"]).status == 200


def test_an_answer_has_a_number(client: Client) -> None:
    answer = client("GET", "/api/items/first")
    assert (answer.status, answer.json()) == (422, {"detail": "the number of an answer is a whole number"})


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
