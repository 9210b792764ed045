from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.dmcr.reading import RULES, read_answer
from bioie_ray.prompting.answers import Answers, Kind, parse_list

KINDS: list[Kind] = ["ner", "re"]
NAMES = st.text(st.one_of(st.characters(exclude_categories=("C",)), st.sampled_from("[],'\"\\(){}:“”’`.é😀")), max_size=10)
ANSWERS: dict[Kind, st.SearchStrategy[Answers]] = {
    "ner": st.lists(NAMES, max_size=4).map(tuple),
    "re": st.lists(st.tuples(NAMES, NAMES), max_size=4).map(tuple),
}
# One dress per rule, around LIST.
DRESSES = {
    "code_fence": ["```json\nLIST\n```", "```\nLIST\n```", "~~~python\nLIST", "```LIST```"],
    "inline_code": ["`LIST`"],
    "full_stop": ["LIST."],
    "end_marker": ["LIST</s>", "LIST\n<|im_end|>", "LIST<end_of_turn>"],
    "wrapper": ['{"entities": LIST}', "{'answer': LIST", '{\n "Results": LIST\n}'],
    "fenced_wrapper": ['```json\n{"entities": LIST}\n```'],
    "label": ["Answer: LIST", "**Output:** LIST.", "entities = LIST", "# Result:\nLIST"],
    "lead_in": ["Here's what the authors name:\nLIST", "Sure. As in [1, 2], these: LIST", "The list of the patient's diseases\n\nLIST"],
    "lead_in_and_code_fence": ["Here you are!\n```json\nLIST\n```"],
    "lead_in_and_wrapper": ['Here you are:\n```json\n{"entities": LIST}\n```', 'As JSON: {"entities": LIST}'],
    "remark": ["LIST\n\nNote: it's short.", "LIST (in the order of the text)", "LIST # from the title"],
    "label_and_remark": ["Answer: LIST\nThese are all."],
    "lead_in_and_remark": ["These I found:\nLIST\nIs there more? See [1]."],
    "code_fence_and_remark": ["```json\nLIST\n```\nThese are all."],
    "lead_in_code_fence_and_remark": ["Sure:\n\n```json\nLIST\n```\nThese are all."],
}


def test_every_rule_has_a_dress() -> None:
    assert {rule.name for rule in RULES} == set(DRESSES)


@pytest.mark.parametrize(("rule", "dress"), [(rule, dress) for rule, dresses in DRESSES.items() for dress in dresses])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_a_dress_is_taken_off_and_the_list_is_untouched(kind: Kind, rule: str, dress: str, data: st.DataObject) -> None:
    answers = data.draw(ANSWERS[kind])
    written = data.draw(st.sampled_from([json.dumps, lambda items: json.dumps(items, ensure_ascii=False), lambda items: repr(list(items))]))
    reading = read_answer(dress.replace("LIST", written(answers)), kind)
    assert (reading.status, reading.rule, reading.reason) == ("dressed", rule, None)
    assert reading.raw is None
    assert reading.cleaned == answers


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_list_as_it_stands_is_valid_and_unchanged(kind: Kind, data: st.DataObject) -> None:
    answers = data.draw(ANSWERS[kind])
    for text in (json.dumps(answers), repr(list(answers))):
        reading = read_answer(f"\n {text} ", kind)
        assert (reading.status, reading.rule, reading.raw, reading.cleaned) == ("valid", None, answers, answers)


PIECES = st.sampled_from(
    [
        '["a"]',
        "[“b”, “c’s”]",
        "[‘d’]",
        "```",
        "json",
        "\n",
        ":",
        ".",
        '"',
        "'",
        "[",
        "]",
        "“",
        "”",
        "(",
        ")",
        "e f",
        "Answer",
        "{",
        "}",
        ",",
    ]
)


@given(text=st.lists(PIECES, max_size=14).map("".join))
def test_undressing_invents_nothing(text: str) -> None:
    for kind in KINDS:
        reading = read_answer(text, kind)
        assert (reading.raw is not None) == (reading.status == "valid") == (parse_list(text, kind) is not None)
        assert (reading.cleaned is None) == (reading.status == "malformed") == (reading.reason is not None)
        for item in reading.cleaned or ():
            assert all(side in text for side in ([item] if isinstance(item, str) else item))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("There are no diseases.", "no_list"),
        ("- asthma\n- cough", "no_list"),
        ("asthma, cough", "no_list"),
        ("['Crohn's disease']", "no_list"),
        (r'["TGF-\beta"]', "no_list"),
        ('["asthma", "cou', "cut_off"),
        ("```json\n['asthma', ", "cut_off"),
        ('["asthma"', "cut_off"),
        ("[", "cut_off"),
        ('["asthma"] or ["cough"]', "several_lists"),
        ('Return [] if there are none. ["cough"]', "several_lists"),
        ('["asthma"]\n\nText: Cough.\nAnswer: ["cough"]', "several_lists"),
        ('I found ["asthma"] and others', "other_text"),
        ('["asthma"] is all there is', "other_text"),
        ('["asthma"]\n["cough", ', "other_text"),
        ('[["asthma", 1]]\n["cough"]', "other_text"),
        ('{"chemicals": ["asthma"], "diseases": 1}', "other_text"),
    ],
)
def test_malformed_with_its_reason(text: str, reason: str) -> None:
    reading = read_answer(text, "ner")
    assert (reading.status, reading.rule, reading.reason, reading.cleaned) == ("malformed", None, reason, None)


@pytest.mark.parametrize("text", ['[["a", "b"], ["c"', '[["a", "b"], ', '[["a', '[["a", ', "[('a', 'b'), ('c", "[("])
def test_pairs_that_are_cut_off(text: str) -> None:
    assert read_answer(text, "re").reason == "cut_off"


def test_typographic_quotes_are_delimiters_only_where_no_text_changes() -> None:
    assert read_answer("[“Crohn’s disease”, “a, b”]", "ner").cleaned == ("Crohn’s disease", "a, b")
    assert read_answer("Here’s the list:\n[(“a”, “b”)]", "re").cleaned == (("a", "b"),)
    assert read_answer("[‘a’, ‘b’]", "ner").rule == "curly_quotes"
    assert read_answer('["the “so-called” cold", "(“x”)"]', "ner").raw == ("the “so-called” cold", "(“x”)")
    for text in ["[‘Crohn’s disease’]", '[“a”, "b"]', "[“a “b” c”]", "[“a\\u0041”]", "['x (“y”)', “z”]", "['Crohn's (“x”), y']"]:
        assert read_answer(text, "ner").status == "malformed"


@pytest.mark.parametrize(
    "text",
    [
        "[1] " * 100_000,
        "[" * 300_000,
        "```" * 200_000,
        "a: " * 200_000 + '["a"]' + " z" * 200_000,
        '["a"] ' * 3000,
        "[“" * 100_000,
        "**" * 200_000 + '["a"]',
    ],
    ids=lambda text: text[:4],
)
def test_long_answers_take_no_long_time(text: str) -> None:
    begun = time.process_time()
    for kind in KINDS:
        read_answer(text, kind)
    assert time.process_time() - begun < 60  # a second or two of this process alone; anything quadratic takes many minutes
