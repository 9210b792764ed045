"""A corrupted gold answer is wrong, in the way that was asked for, and the same for the same seed."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from preference_builders import CID, DDI, DISEASE, TASKS, document, documents, right_answers

from bioie_ray.config.training import ErrorKind
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import Task
from bioie_ray.dmcr.reading import read_answer
from bioie_ray.evaluation.errors import errors
from bioie_ray.evaluation.gold_view import GoldView, distinct
from bioie_ray.evaluation.scoring import strict
from bioie_ray.training.preferences.corruptions import corrupt
from bioie_ray.training.preferences.wrongness import Wrong

KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
TEXT = "Aspirin and heparin caused gastric ulcer and nausea in two rats."
MENTIONS = {"Aspirin": "Chemical", "heparin": "Chemical", "gastric ulcer": "Disease", "nausea": "Disease"}
PAIRS = [("Aspirin", "gastric ulcer"), ("heparin", "nausea")]


def corrupted(task: Task, found: Document, kind: ErrorKind, max_f1: float = 0.99, seed: str = "s") -> Wrong | None:
    return corrupt(GoldView.of(task, found), right_answers(task, found), found.text, kind, max_f1, seed)


@given(documents(), st.sampled_from(TASKS), st.sampled_from(KINDS), st.sampled_from([0.5, 0.99]), st.text(max_size=3))
def test_it_is_wrong_in_the_way_that_was_asked_for(found: Document, task: Task, kind: ErrorKind, max_f1: float, seed: str) -> None:
    wrong = corrupted(task, found, kind, max_f1, seed)
    assert wrong == corrupted(task, found, kind, max_f1, seed)
    event(f"{task.key} {kind}: {'made' if wrong else 'none'}")
    if wrong is None:
        return
    view = GoldView.of(task, found)
    answers = read_answer(wrong.text, task.kind).cleaned
    assert wrong.kind == kind
    assert (answers is None) == (kind == "malformed")
    if answers is None:
        assert wrong.f1 == 0.0
        return
    assert distinct(answers) != view.gold
    assert all(form == form.strip() for answer in distinct(answers) for form in answer)
    assert wrong.f1 == strict(view, answers).f1 <= max_f1
    told = errors(view, answers)
    if kind in ("missed", "boundary", "direction"):
        assert told[kind]
    else:
        assert told["invented"] + told["spurious"] + told["wrong_type"] + told["partial"]


@given(documents(), st.sampled_from(TASKS))
def test_every_document_can_be_answered_malformed_and_with_a_gold_answer_missing(found: Document, task: Task) -> None:
    assert corrupted(task, found, "malformed") is not None
    assert (corrupted(task, found, "missed") is not None) == bool(right_answers(task, found))


@pytest.mark.parametrize("task", [CID, DDI])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_made_of_pairs_but_direction_where_they_have_none(task: Task, kind: ErrorKind) -> None:
    made = {corrupted(task, document(TEXT, MENTIONS, PAIRS), kind, seed=str(seed)) for seed in range(8)} - {None}
    assert len(made) > 1 if (task, kind) != (DDI, "direction") else not made


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_but_direction_can_be_made_of_entities(kind: ErrorKind) -> None:
    made = {corrupted(DISEASE, document(TEXT, MENTIONS), kind, seed=str(seed)) for seed in range(8)} - {None}
    assert len(made) > 1 if kind != "direction" else not made


@pytest.mark.parametrize("task", TASKS)
def test_over_a_document_with_nothing_to_find_something_is_invented(task: Task) -> None:
    wrong = corrupted(task, document(TEXT, {}), "invented")
    assert wrong is not None
    answers = read_answer(wrong.text, task.kind).cleaned
    assert answers is not None
    assert [isinstance(answer, str) for answer in answers] == [task.kind == "ner"]


def test_of_a_pair_that_is_gold_in_both_directions_none_is_turned() -> None:
    both = [("Aspirin", "nausea"), ("nausea", "Aspirin")]
    assert corrupted(CID, document(TEXT, MENTIONS, both), "direction") is None
    for seed in range(20):
        wrong = corrupted(CID, document(TEXT, MENTIONS, [*both, ("heparin", "gastric ulcer")]), "direction", seed=str(seed))
        assert wrong is not None
        assert '["gastric ulcer", "heparin"]' in wrong.text


def test_what_is_too_nearly_right_is_not_made() -> None:
    found = document(TEXT, MENTIONS, PAIRS)
    assert corrupted(CID, found, "invented", max_f1=0.7) is None  # one more than two right ones: 0.8
    assert corrupted(CID, found, "invented", max_f1=0.8) is not None


def test_a_form_that_cannot_be_moved_does_not_keep_another_from_it() -> None:
    found = document("anti-nausea, for gastric ulcer in rats", {"nausea": "Disease", "gastric ulcer": "Disease"})
    for seed in range(20):
        wrong = corrupted(DISEASE, found, "boundary", seed=str(seed))
        assert wrong is not None
        assert '"nausea"' in wrong.text
