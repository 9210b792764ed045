from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import S3Server

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.dmcr.decision_log import ConflictError, DecisionLog
from bioie_ray.dmcr.decisions import Choice, Decision, from_jsonl, new_id, to_jsonl


def an_output(folder: Path, name: str = "x") -> Output:
    return Output(StoreAddress(str(folder)), f"dmcr/{name}@1")


def decide(choice: Choice = "a", reviewer: str = "ada", seen: str = "", document_id: str = "d1") -> Decision:
    identifier, time = new_id()
    answers = None if choice in {"skip", "undo"} else (f"{reviewer} {choice}",)
    return Decision(document_id, 1, choice, answers, reviewer, time, identifier, seen)


def test_what_is_added_is_read_by_another_process(tmp_path: Path) -> None:
    log = DecisionLog(an_output(tmp_path))
    assert (log.all(), log.digest(), log.num_effective()) == ([], "", 0)
    first = log.add(decide())
    second = log.add(decide("b", seen=first.id))
    log.add(decide("skip", "bo"))
    other = DecisionLog(an_output(tmp_path))
    assert [one.choice for one in other.all()] == ["a", "b", "skip"]
    assert other.standing(("d1", 1)).winner == second
    assert other.digest() == log.digest()
    assert other.digest().endswith("-1")
    assert (tmp_path / f"dmcr/x@1/_decisions/{first.id}.json").read_text() == first.to_json()


def test_who_decides_without_having_seen_is_refused_and_kept(tmp_path: Path) -> None:
    log = DecisionLog(an_output(tmp_path))
    early = decide("b", "bo")  # an id that is smaller than the one that will stand
    first = log.add(decide())
    digest = log.digest()
    with pytest.raises(ConflictError, match=r"d1, repeat 1: not taken, because ada decided \(a\) at 20") as error:
        DecisionLog(an_output(tmp_path)).add(early)
    assert error.value.standing.winner == first
    standing = log.standing(("d1", 1))
    assert standing.winner == first
    assert [one.answers for one in standing.conflicts] == [("bo b",)]
    assert log.digest() == digest
    log.add(decide("b", "bo", seen=standing.head))
    assert log.standing(("d1", 1)).winner != first


def test_the_digest_is_of_what_counts(tmp_path: Path) -> None:
    log = DecisionLog(an_output(tmp_path))
    first = log.add(decide())
    digest = log.digest()
    log.add(decide("skip", "bo"))
    assert log.digest() == digest
    second = log.add(decide("b", "bo", seen=first.id))
    assert log.digest() != digest
    log.add(decide("undo", "bo", seen=second.id))
    assert log.digest() == digest
    log.add(decide(document_id="d2"))
    assert log.digest().endswith("-2")


def test_the_same_sent_twice_is_one(tmp_path: Path) -> None:
    log = DecisionLog(an_output(tmp_path))
    first = log.add(decide())
    again = replace(decide(), seen="")
    assert again.id != first.id
    assert log.add(again) == first
    assert log.all() == [first]


def test_of_many_at_once_one_goes_on(tmp_path: Path) -> None:
    made = [decide("edit", f"reviewer {number}") for number in range(12)]

    def add(decision: Decision) -> bool:
        try:
            DecisionLog(an_output(tmp_path)).add(decision)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        saved = list(pool.map(add, made))
    assert saved.count(True) == 1
    standing = DecisionLog(an_output(tmp_path)).standing(("d1", 1))
    assert standing.winner == made[saved.index(True)]
    assert len(standing.conflicts) == 11


def test_killed_between_its_two_objects_a_decision_was_made(tmp_path: Path) -> None:
    first = DecisionLog(an_output(tmp_path)).add(decide())
    (tmp_path / f"dmcr/x@1/_decisions/{first.id}.json").unlink()
    log = DecisionLog(an_output(tmp_path))
    assert log.all() == [first]
    with pytest.raises(ConflictError):
        log.add(decide("b", "bo"))
    log.add(decide("b", "bo", seen=first.id))


def test_a_log_is_carried_elsewhere_and_back(tmp_path: Path) -> None:
    here, there = DecisionLog(an_output(tmp_path, "here")), DecisionLog(an_output(tmp_path, "there"))
    first = here.add(decide())
    there.merge(from_jsonl(to_jsonl(here.all())))
    second = there.add(decide("b", "bo", seen=first.id))
    there.add(decide("undo", "bo", seen=second.id))
    there.add(decide("skip", "bo", document_id="d2"))
    mine = here.add(decide("edit", seen=first.id))  # meanwhile
    brought = here.merge(from_jsonl(to_jsonl(there.all())))
    assert (brought.num_added, brought.num_known, [one.choice for one in brought.refused]) == (1, 1, ["b", "undo"])
    assert here.standing(("d1", 1)).winner == mine
    assert len(here.standing(("d1", 1)).conflicts) == 2
    size = len(here.all())
    again = here.merge(from_jsonl(to_jsonl(there.all())))
    assert (again.num_added, again.num_known, again.refused) == (0, 4, ())
    assert len(here.all()) == size


def test_a_long_chain_and_two_who_saw_the_same_in_one_file(tmp_path: Path) -> None:
    there = DecisionLog(an_output(tmp_path, "there"))
    last = there.add(decide())
    for choice in ("b", "edit", "undo"):
        last = there.add(decide(choice, seen=last.id))
    rival = decide("edit", "bo")
    brought = DecisionLog(an_output(tmp_path, "here")).merge([rival, *reversed(there.all())])
    assert (brought.num_added, brought.refused) == (4, (rival,))
    assert DecisionLog(an_output(tmp_path, "here")).digest() == there.digest()


def test_what_was_decided_about_another_answer_has_no_effect_and_is_in_nobodys_way(tmp_path: Path) -> None:
    one, other = ("0" * 16, "1" * 16)
    before = DecisionLog(an_output(tmp_path), {("d1", 1): one})
    first = before.add(replace(decide(), answer_digest=one))
    digest = before.digest()
    now = DecisionLog(an_output(tmp_path), {("d1", 1): other})
    assert now.standing(("d1", 1)).winner is None
    assert (now.num_effective(), now.num_stale(), before.num_stale()) == (0, 1, 0)
    second = now.add(replace(decide("b", "bo"), answer_digest=other))
    assert now.standing(("d1", 1)).winner == second
    assert before.standing(("d1", 1)).winner == first
    assert now.num_stale() == 0  # decided anew
    assert now.digest() == before.digest() != digest
    with pytest.raises(ConflictError):
        now.add(replace(decide("edit", "cy"), answer_digest=other))


def test_an_object_that_is_no_decision_is_named(tmp_path: Path) -> None:
    DecisionLog(an_output(tmp_path)).add(decide())
    (tmp_path / "dmcr/x@1/_decisions/notes.json").write_text("{}")
    with pytest.raises(ValueError, match=r"_decisions/notes\.json is no decision: document_id is missing.*move it away"):
        DecisionLog(an_output(tmp_path)).all()


@pytest.mark.slow
def test_on_an_object_store(s3_server: S3Server) -> None:
    output = Output(StoreAddress(f"s3://{s3_server.bucket}/decisions", s3_server.endpoint), "dmcr/x@1")
    first = DecisionLog(output).add(decide())
    with pytest.raises(ConflictError):
        DecisionLog(output).add(decide("b", "bo"))
    DecisionLog(output).add(decide("b", "bo", seen=first.id))
    assert len(DecisionLog(output).all()) == 3
    assert DecisionLog(output).num_effective() == 1
