from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from review_items import ITEMS, a_queue

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.decisions import Decision, new_id
from bioie_ray.dmcr.review.exchange import export_jsonl, import_jsonl
from bioie_ray.dmcr.review.queue import digests


def a_log(folder: Path, name: str = "x") -> DecisionLog:
    return DecisionLog(Output(StoreAddress(str(folder)), f"dmcr/{name}@1"))


def filled(text: str, **by_document: dict[str, Any]) -> str:
    lines = [json.loads(line) for line in text.splitlines()]
    return "".join(json.dumps({**line, **by_document.get(f"d{line['document_id']}_{line['repeat']}", {})}) + "\n" for line in lines)


def test_open_answers_come_with_all_that_is_needed_and_no_decision(tmp_path: Path) -> None:
    text = export_jsonl(a_queue(), a_log(tmp_path))
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["document_id"], line["repeat"]) for line in lines] == [item.key for item in ITEMS]
    assert all(line["choice"] is line["answers"] is line["reviewer"] is None for line in lines)
    assert lines[0]["text"] == ITEMS[0].text
    assert lines[0]["list_b"] == list(ITEMS[0].list_b or ())
    done = import_jsonl(text, a_queue(), a_log(tmp_path))
    assert (done.num_added, done.num_known, done.refused) == (0, 0, ())


def test_what_was_decided_elsewhere_is_taken_once(tmp_path: Path) -> None:
    queue, log = a_queue(), a_log(tmp_path)
    text = filled(
        export_jsonl(queue, log),
        d10071832_1={"choice": "b", "reviewer": "Cy"},
        d10071832_2={"choice": "edit", "answers": [["amiodarone", "tremor"]], "reviewer": "Cy"},
        d10215554_1={"choice": "skip", "reviewer": "Cy"},
        d10391877_1={"choice": "a", "answers": ["acute hepatitis", "jaundice"], "reviewer": "Cy"},
    )
    done = import_jsonl("\ufeff" + text, queue, log)
    assert (done.num_added, done.num_known, done.refused) == (4, 0, ())
    assert log.standing(("10071832", 1)).winner.answers == ITEMS[0].list_b  # type: ignore[union-attr]
    assert log.standing(("10071832", 2)).winner.answers == (("amiodarone", "tremor"),)  # type: ignore[union-attr]
    assert import_jsonl(text, queue, log).num_known == 4
    assert len(log.all()) == 4


def test_another_content_of_a_known_decision_is_told_and_changes_nothing(tmp_path: Path) -> None:
    queue, log = a_queue(), a_log(tmp_path)
    import_jsonl(filled(export_jsonl(queue, log), d10071832_1={"choice": "b", "reviewer": "Cy"}), queue, log)
    before = log.all()
    done = import_jsonl(filled(export_jsonl(queue, log), d10071832_1={"reviewer": "Di"}), queue, log)
    assert (done.num_added, log.all()) == (0, before)
    (told,) = done.not_taken
    assert f"decision {before[0].id} is in the log with another content" in told
    assert f"set `seen` to {before[0].id}" in told


def test_whoever_decided_here_meanwhile_stays(tmp_path: Path) -> None:
    queue, log = a_queue(), a_log(tmp_path)
    text = filled(export_jsonl(queue, log), d10071832_1={"choice": "b", "reviewer": "Cy"})
    identifier, time = new_id()
    mine = log.add(Decision("10071832", 1, "a", ITEMS[0].list_a, "Ada", time, identifier, ""))
    done = import_jsonl(text, queue, log)
    assert [one.reviewer for one in done.refused] == ["Cy"]
    assert log.standing(("10071832", 1)).winner == mine


def test_an_export_holds_the_decisions_and_is_read_elsewhere(tmp_path: Path) -> None:
    queue, log, elsewhere = a_queue(), a_log(tmp_path), a_log(tmp_path, "y")
    import_jsonl(filled(export_jsonl(queue, log), d10071832_1={"choice": "b", "reviewer": "Cy"}), queue, log)
    text = export_jsonl(queue, log)
    assert len(text.splitlines()) == len(ITEMS)
    import_jsonl(text, queue, elsewhere)
    assert elsewhere.all() == log.all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choice": "c", "reviewer": "Cy"}, "choice is 'c'"),
        ({"choice": "a"}, "reviewer is None, not a text"),
        ({"choice": "a", "reviewer": "Cy", "answers": ["x"]}, "answers are not proposal A; leave them null, or choose edit"),
        ({"choice": "edit", "reviewer": "Cy"}, "choice 'edit' needs answers"),
        ({"choice": "edit", "reviewer": "Cy", "answers": [["a", "b"]]}, "the answers to bc5cdr_disease are strings"),
        ({"colour": 1}, "colour is unknown; an open answer has"),
        ({"choice": "edit", "reviewer": "Cy", "answers": ["\ud800"]}, "holds '\\ud800', half a surrogate pair"),
    ],
)
def test_an_error_names_the_line_and_nothing_is_taken(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    queue, log = a_queue(), a_log(tmp_path)
    good = filled(export_jsonl(queue, log), d10533204_1={"choice": "b", "reviewer": "Cy"})
    text = filled(good, d10071832_1=change)
    with pytest.raises(ValueError, match=r"^the file, line 1: ") as error:
        import_jsonl(text, queue, log)
    assert reason in str(error.value)
    assert log.all() == []


def another_run() -> Any:
    """The same documents, and another answer to the first."""
    return a_queue([replace(ITEMS[0], answer="tremor and nothing else"), *ITEMS[1:-1]])


def test_what_is_about_another_answer_is_named_and_not_taken(tmp_path: Path) -> None:
    queue, there = a_queue(), a_log(tmp_path, "there")
    decided: dict[str, Any] = {"choice": "b", "reviewer": "Cy"}
    text = filled(export_jsonl(queue, there), d10071832_1=decided, d10391877_1=decided, d10533204_1=decided)
    import_jsonl(text, queue, there)
    as_decisions = export_jsonl(queue, there)
    for file, lines in ((text, (1, 6)), (as_decisions, (1, 3))):
        here = a_log(tmp_path, f"here{lines[1]}")
        done = import_jsonl(file, another_run(), here)
        assert (done.num_added, done.refused) == (1, ())
        assert done.not_taken == (
            f"line {lines[0]}: document '10071832', repeat 1 is about another answer than dmcr/diseases@1 has",
            f"line {lines[1]}: document '10533204', repeat 1 is not to be decided in dmcr/diseases@1",
        )
        assert [one.document_id for one in here.all()] == ["10391877"]


def test_decisions_without_a_digest_count_where_they_lie_and_get_one_when_exported(tmp_path: Path) -> None:
    """As releases up to 0.3 made them."""
    queue, log, elsewhere = a_queue(), a_log(tmp_path), a_log(tmp_path, "y")
    identifier, time = new_id()
    old = log.add(Decision("10071832", 1, "a", ITEMS[0].list_a, "Ada", time, identifier, ""))
    assert DecisionLog(log._output, digests(queue)).standing(old.key).winner == old
    as_it_was = json.dumps({name: value for name, value in json.loads(old.to_json()).items() if name != "answer_digest"})
    assert import_jsonl(as_it_was, queue, log).num_known == 1
    (reason,) = import_jsonl(as_it_was, queue, elsewhere).not_taken
    assert "has no answer_digest, so nobody can say which answer it is about" in reason
    assert elsewhere.all() == []
    assert import_jsonl(export_jsonl(queue, log), queue, elsewhere).num_added == 1
    assert elsewhere.all() == [replace(old, answer_digest=ITEMS[0].answer_digest)]


def test_an_open_line_of_an_older_release_says_by_the_answer_what_it_is_about(tmp_path: Path) -> None:
    line = {**json.loads(export_jsonl(a_queue(), a_log(tmp_path)).splitlines()[0]), "choice": "b", "reviewer": "Cy"}
    del line["answer_digest"]
    assert import_jsonl(json.dumps(line), another_run(), a_log(tmp_path)).num_added == 0
    assert import_jsonl(json.dumps(line), a_queue(), a_log(tmp_path)).num_added == 1
    del line["answer"]
    assert len(import_jsonl(json.dumps(line), a_queue(), a_log(tmp_path, "y")).not_taken) == 1
