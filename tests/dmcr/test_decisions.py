from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.dmcr.decisions import Choice, Decision, answer_digest, from_jsonl, new_id, resolve, stale, standings, to_jsonl, winners
from bioie_ray.prompting.answers import Answers

KEY = ("d1", 1)


def an_id(number: int) -> str:
    return f"20260131T{number:012d}Z-{number:012x}"


def decide(number: int, choice: Choice = "a", seen: int | None = None, answers: Answers | None = None, reviewer: str = "ada") -> Decision:
    if choice in {"a", "b", "edit"} and answers is None:
        answers = (f"item {number}",)
    return Decision("d1", 1, choice, answers, reviewer, "2026-01-31T12:00:00.000000Z", an_id(number), an_id(seen) if seen else "")


def test_the_last_of_a_chain_wins() -> None:
    assert resolve([]) == {}
    assert resolve([decide(1), decide(2, "edit", seen=1, answers=(("x", "y"),), reviewer="bo")]) == {KEY: (("x", "y"),)}


def test_who_did_not_see_what_stood_does_not_win() -> None:
    late = decide(2, "b", reviewer="bo")
    on_top_of_it = decide(3, "b", seen=2, reviewer="bo")
    standing = standings([decide(1), late, on_top_of_it])[KEY]
    assert standing.winner == decide(1)
    assert standing.head == an_id(1)
    assert standing.conflicts == (late, on_top_of_it)


def test_a_clock_that_is_behind_does_not_make_what_follows_a_conflict() -> None:
    assert resolve([decide(5), decide(3, "b", seen=5)]) == {KEY: ("item 3",)}


def test_undo_takes_back_ones_own_last() -> None:
    history = [decide(1), decide(2, "b", seen=1, reviewer="bo"), decide(3, "edit", seen=2, reviewer="bo")]
    assert resolve([*history, decide(4, "undo", seen=3, reviewer="bo")]) == {KEY: ("item 2",)}
    twice = [*history, decide(4, "undo", seen=3, reviewer="bo"), decide(5, "undo", seen=4, reviewer="bo")]
    assert resolve(twice) == {KEY: ("item 1",)}
    assert resolve([*twice, decide(6, "undo", seen=5, reviewer="ada")]) == {}
    assert resolve([*history, decide(4, "undo", seen=3, reviewer="ada")]) == {KEY: ("item 3",)}
    assert resolve([*history, decide(4, "undo", seen=3, reviewer="eve")]) == {KEY: ("item 3",)}
    assert standings([*history, decide(4, "undo", seen=3, reviewer="bo")])[KEY].head == an_id(4)


def test_a_skip_changes_nothing_and_is_in_nobodys_way() -> None:
    standing = standings([decide(1), decide(2, "skip", seen=1, reviewer="bo"), decide(3, "b", seen=1)])[KEY]
    assert standing.winner == decide(3, "b", seen=1)
    assert standing.conflicts == ()
    assert standing.skipped_by == {"bo"}


def test_what_refers_to_nothing_or_to_itself_is_a_conflict() -> None:
    odd = [decide(2, seen=2), decide(3, seen=4), decide(4, seen=3), decide(5, seen=99)]
    standing = standings(odd)[KEY]
    assert standing.winner is None
    assert standing.conflicts == tuple(odd)


STEPS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "edit", "undo", "skip"]), st.sampled_from(["ada", "bo"]), st.integers(0, 9)), max_size=12
)


@given(steps=STEPS, data=st.data())
def test_whatever_the_order_and_however_often(steps: list[Any], data: st.DataObject) -> None:
    numbers = data.draw(st.permutations(range(1, len(steps) + 1)))
    made = [decide(number, choice, seen=seen, reviewer=reviewer) for number, (choice, reviewer, seen) in zip(numbers, steps, strict=True)]
    expected = standings(made)
    assert standings(data.draw(st.permutations([*made, *made[:3]]))) == expected
    if expected:
        standing = expected[KEY]
        parts = [*standing.chain, *standing.conflicts, *(one for one in made if one.choice == "skip")]
        assert sorted(one.id for one in parts) == sorted(one.id for one in made)
        assert [one.seen for one in standing.chain] == ["", *(one.id for one in standing.chain)][:-1] or not standing.chain


@given(steps=STEPS)
def test_one_after_the_other_is_a_list_of_what_stands(steps: list[Any]) -> None:
    """Each reviewer sees what the one before did: nothing is a conflict, and an undo is the reviewer's own last."""
    made: list[Decision] = []
    stands: list[Decision] = []
    for number, (choice, reviewer, _) in enumerate(steps, start=1):
        head = standings(made)[KEY].head if made else ""
        decision = replace(decide(number, choice, reviewer=reviewer), seen=head)
        made.append(decision)
        if choice == "undo":
            last = next((at for at in reversed(range(len(stands))) if stands[at].reviewer == reviewer), None)
            stands = stands if last is None else stands[:last] + stands[last + 1 :]
        elif choice != "skip":
            stands.append(decision)
    assert resolve(made) == ({KEY: stands[-1].answers} if stands else {})
    assert not made or standings(made)[KEY].conflicts == ()


@given(later=STEPS, reviewer=st.sampled_from(["ada", "bo"]))
def test_a_later_decision_by_somebody_who_saw_less_never_changes_what_stands(later: list[Any], reviewer: str) -> None:
    first = [decide(1), decide(2, "b", seen=1)]
    others = [decide(number, choice, seen=seen % 2, reviewer=reviewer) for number, (choice, reviewer, seen) in enumerate(later, start=3)]
    assert resolve([*others, *first]) == {KEY: ("item 2",)}


ONE, OTHER = answer_digest("tremor"), answer_digest("tremor and gout")


def test_a_decision_counts_for_its_own_answer_only() -> None:
    about_one = replace(decide(1), answer_digest=ONE)
    about_other = replace(decide(2, "b"), answer_digest=OTHER)
    assert resolve([about_one], {KEY: ONE}) == {KEY: ("item 1",)}
    assert (resolve([about_one], {KEY: OTHER}), stale([about_one], {KEY: OTHER})) == ({}, {KEY})
    assert stale([about_one, about_other], {KEY: OTHER}) == stale([about_one, about_other], {}) == set()
    standing = standings([about_one, about_other], {KEY: OTHER})[KEY]  # both saw nothing, and neither is in the other's way
    assert (standing.winner, standing.conflicts) == (about_other, ())
    assert winners([about_other, about_one]) == [about_one, about_other]


def test_what_was_decided_before_there_were_digests_is_part_of_the_chain() -> None:
    old, new = decide(1), replace(decide(2, "b", seen=1), answer_digest=ONE)
    assert resolve([old, new], {KEY: ONE}) == {KEY: ("item 2",)}
    assert resolve([old, new], {KEY: OTHER}) == {KEY: ("item 1",)}
    assert winners([old, new]) == [new]
    assert winners([old]) == [old]


def test_the_digest_of_an_answer_stays_as_it_is_in_logs() -> None:
    assert ONE == "690dccb9e747276a"


def test_jsonl_there_and_back() -> None:
    made = [decide(2, "edit", seen=1, answers=(("α, β", 'x"y'),)), decide(1), decide(3, "undo", seen=2), replace(decide(4), answers=())]
    assert from_jsonl(to_jsonl(made)) == sorted(made, key=lambda one: one.id)
    assert from_jsonl("\n" + to_jsonl(made).replace("\n", "\r\n")) == sorted(made, key=lambda one: one.id)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"repeat": 0}, "repeat is 0; repeats count from 1"),
        ({"repeat": "1"}, "repeat is '1', not a whole number"),
        ({"repeat": True}, "repeat is True"),
        ({"choice": "c"}, "choice is 'c'; known: a, b, edit, skip, undo"),
        ({"choice": "undo"}, "choice 'undo' has no answers"),
        ({"answers": None}, "choice 'a' needs answers"),
        ({"answers": ["a", ["b", "c"]]}, "neither a list of strings nor a list of pairs"),
        ({"answers": [["b"]]}, "neither a list of strings nor a list of pairs"),
        ({"answers": "asthma"}, "neither a list of strings nor a list of pairs"),
        ({"reviewer": " "}, "reviewer is empty"),
        ({"time": "yesterday"}, "time is 'yesterday'; write it as"),
        ({"id": ""}, "id is '', which is no id"),
        ({"id": "../../x"}, "which is no id"),
        ({"seen": "x"}, "seen is 'x'"),
        ({"document_id": ""}, "document_id is empty"),
        ({"mood": "good"}, "mood is unknown; a decision has document_id"),
        ({"answer_digest": "0A"}, "answer_digest is '0A', which is no digest of an answer"),
        ({"answer_digest": None}, "answer_digest is None, not a text"),
        ({"answers": ["TGF-\ud835"]}, "holds '\\ud835', half a surrogate pair, which no file can hold"),
        ({"reviewer": "\udc00"}, "holds '\\udc00'"),
        ({"\ud800": 1}, "holds '\\ud800'"),
    ],
)
def test_an_error_names_the_line(change: dict[str, Any], reason: str) -> None:
    good = decide(1).to_json()
    bad = json.dumps({**json.loads(good), **change})
    with pytest.raises(ValueError, match=r"^work\.jsonl, line 3: ") as error:
        from_jsonl(f"{good}\n\n{bad}\n", "work.jsonl")
    assert reason in str(error.value)


@pytest.mark.parametrize("line", ["{", "[]", "1", '{"document_id": "d"}', "[" * 100_000])
def test_a_line_that_is_no_decision(line: str) -> None:
    with pytest.raises(ValueError, match=r"the file, line 1: (no JSON|not a JSON object|repeat is missing)"):
        from_jsonl(line)


def test_ids_sort_by_time_and_after_a_faster_clock() -> None:
    first, time = new_id()
    second, _ = new_id(after=first)
    assert first < second
    assert first[:8] == time[:10].replace("-", "")
    ahead = "29991231T235959999999Z-ffffffffffff"
    assert new_id(after=ahead)[0] > ahead
    assert replace(decide(1), id=new_id(after=ahead)[0], time=time).time == time
