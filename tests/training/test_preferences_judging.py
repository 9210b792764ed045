"""What is wrong with an answer, and what is not: order, case and dress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preference_builders import CID, DDI, DISEASE, TASKS, document, documents, right_answers

from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import Answer, Task
from bioie_ray.evaluation.gold_view import GoldView
from bioie_ray.prompting.answers import format_list
from bioie_ray.training.preferences.wrongness import Wrong, judge

TEXT = "Aspirin and heparin caused gastric ulcer and nausea in two rats."
MENTIONS = {"Aspirin": "Chemical", "heparin": "Chemical", "gastric ulcer": "Disease", "nausea": "Disease"}
FOUND = document(TEXT, MENTIONS, [("Aspirin", "gastric ulcer"), ("heparin", "nausea")])


@given(documents(), st.sampled_from(TASKS), st.data(), st.sampled_from(["{}", "```json\n{}\n```", "Answer: {}", "{}."]))
def test_the_gold_is_right_in_any_order_case_and_dress(found: Document, task: Task, data: st.DataObject, dress: str) -> None:
    answers = data.draw(st.permutations(right_answers(task, found)))
    spelt: list[Answer] = [one.upper() if isinstance(one, str) else (one[0].upper(), one[1]) for one in answers]
    assert judge(GoldView.of(task, found), dress.replace("{}", format_list(spelt + spelt[:1])), 0.99) is None


@pytest.mark.parametrize(
    ("task", "text", "kind", "f1"),
    [
        (DISEASE, "gastric ulcer, nausea", "malformed", 0.0),
        (DISEASE, '["gastric ulcer", "nau', "malformed", 0.0),
        (DISEASE, "", "malformed", 0.0),
        (DISEASE, '[["gastric ulcer", "nausea"]]', "malformed", 0.0),
        (DISEASE, "[]", "missed", 0.0),
        (DISEASE, '["nausea"]', "missed", 2 / 3),
        (DISEASE, '["gastric ulcer", "nausea", "rats"]', "invented", 0.8),
        (DISEASE, '["gastric ulcer", "nausea", "dragon"]', "invented", 0.8),
        (DISEASE, '["gastric ulcer", "nausea", "heparin"]', "invented", 0.8),
        (DISEASE, '["ulcer", "nausea"]', "boundary", 0.5),
        (CID, '[["gastric ulcer", "Aspirin"], ["heparin", "nausea"]]', "direction", 0.5),
        (DDI, '[["gastric ulcer", "Aspirin"]]', "missed", 0.0),
        (CID, '[["Aspirin", "ulcer"], ["heparin", "nausea"]]', "boundary", 0.5),
        (CID, '[["Aspirin", "gastric ulcer"], ["heparin", "nausea"], ["Aspirin", "nausea"]]', "invented", 0.8),
        (CID, '[["Aspirin", "gastric ulcer"]]', "missed", 2 / 3),
        (CID, '["Aspirin", "gastric ulcer"]', "malformed", 0.0),
    ],
)
def test_each_kind(task: Task, text: str, kind: str, f1: float) -> None:
    assert judge(GoldView.of(task, FOUND), text, 0.99) == Wrong(text, kind, pytest.approx(f1))  # type: ignore[arg-type]


def test_of_two_kinds_the_one_that_is_there_more_often_and_then_the_finer_names_it() -> None:
    view = GoldView.of(DISEASE, FOUND)

    def kind(text: str) -> str:
        wrong = judge(view, text, 0.99)
        assert wrong is not None
        return wrong.kind

    assert kind('["ulcer"]') == "boundary"  # and one missed
    assert kind('["rats"]') == "missed"  # two, and one invented
    assert kind('["nausea", "rats"]') == "invented"  # one of each


def test_an_answer_above_max_f1_is_not_wrong_enough() -> None:
    view = GoldView.of(DISEASE, FOUND)
    text = '["gastric ulcer", "nausea", "rats"]'
    assert judge(view, text, 0.79) is None
    assert judge(view, text, 0.8) is not None


def test_over_a_document_with_nothing_to_find_only_the_empty_list_is_right() -> None:
    view = GoldView.of(DISEASE, document(TEXT, {}))
    assert judge(view, "[]", 0.99) is None
    assert judge(view, '["rats"]', 0.99) == Wrong('["rats"]', "invented", 0.0)


@pytest.mark.parametrize(
    "text", ['[["gastric ulcer", "Aspirin"], ["heparin", "nausea"]]', '[["nausea", "heparin"], ["Aspirin", "gastric ulcer"]]']
)
def test_where_pairs_have_no_direction_one_turned_round_is_right(text: str) -> None:
    """The prompt asks for pairs that interact, or bind to each other: nobody is taught that one of the two orders is wrong."""
    assert judge(GoldView.of(DDI, FOUND), text, 0.99) is None
    assert judge(GoldView.of(CID, FOUND), text, 0.99) is not None
