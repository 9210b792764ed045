from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.dmcr.reading import RULES, Rule, read_answer
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
    "label": [
        "Answer: LIST",
        "**Output:** LIST.",
        "entities = LIST",
        "# Result:\nLIST",
        '"answer": LIST',
        "Answer: LIST\nI hope this helps!",
    ],
    "lead_in": [
        "Here's the list of diseases:\nLIST",
        "Sure! Here are the chemicals and drugs that are named in the text:\n\nLIST",
        "Based on the provided abstract, the drug-drug interactions are:\nLIST.",
        "**Diseases:**\nLIST",
        "Certainly.\n## Extracted entities:\n\nLIST\n\nLet me know if you need anything else.",
        "Here is the answer in the requested JSON format: LIST",
        "The pairs of drugs that interact with each other are as follows: LIST",
        "Sure, here you go: LIST",
    ],
    "lead_in_and_code_fence": ["Here you are!\n```json\nLIST\n```", "Sure:\n\n```json\nLIST\n```\n\nI hope this helps!"],
    "lead_in_and_wrapper": ['Here you are:\n```json\n{"entities": LIST}\n```', 'As JSON: {"entities": LIST}'],
    "closing": ["LIST\n\nLet me know if you have any other questions.", "LIST. I hope this helps!"],
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
        ('Diseases:\n- cough\n- fever\nOthers: ["asthma"]', "other_text"),
        ('None of these is a disease in the text:\n["asthma"]', "other_text"),
        ('The text does not mention: ["asthma"]', "other_text"),
        ('Without the symptoms: ["asthma"]', "other_text"),
        ("These aren't in the text: ['asthma']", "other_text"),
        ('Other diseases: ["asthma"]', "other_text"),
        ('Here are some of the diseases: ["asthma"]', "other_text"),
        ('For example: ["asthma"]', "other_text"),
        ('The format is: ["asthma"]', "other_text"),
        ('The answer has to be in the format: ["disease1", "disease2"]', "other_text"),
        ('The output has to be a JSON list of strings: ["string1", "string2"]', "other_text"),
        ('Your response can be a list of strings: ["a", "b"]', "other_text"),
        ('You can answer with a list of names in the list format: ["name 1", "name 2"]', "other_text"),
        ('The text names cough. Also: ["asthma"]', "other_text"),
        ('The text names cough and: ["asthma"]', "other_text"),
        ('Here are the diseases\nthat are named in the text: ["asthma"]', "other_text"),
        ('The list of the diseases\n\n["asthma"]', "other_text"),
        ('- Diseases: ["asthma"]', "other_text"),
        ('1. Diseases: ["asthma"]', "other_text"),
        ('* Answer: ["asthma"]', "other_text"),
        ('["asthma"].\n- cough', "other_text"),
        ('["asthma"]\n\nNote: cough is one, too.', "other_text"),
        ('["asthma"] (and cough)', "other_text"),
        ('["asthma"] # and cough', "other_text"),
        ('["asthma"]\nI hope this helps! Cough is one, too.', "other_text"),
        ('```json\n["asthma"]\n```\nThat is wrong.', "other_text"),
        ('["asthma"] is all there is', "other_text"),
        ('["asthma"]\n["cough", ', "other_text"),
        ('[["asthma", 1]]\n["cough"]', "other_text"),
        ('{"chemicals": ["asthma"], "diseases": 1}', "other_text"),
    ],
)
def test_malformed_with_its_reason(text: str, reason: str) -> None:
    reading = read_answer(text, "ner")
    assert (reading.status, reading.rule, reading.reason, reading.cleaned) == ("malformed", None, reason, None)


@pytest.mark.parametrize(
    "word",
    [
        "no", "not", "none", "never", "neither", "without", "except", "excluding", "besides", "other", "others", "another", "also", "further",
        "some", "rest", "remaining", "only", "missed", "wrong", "example", "asthma", "aren't", "don’t", "diseases;", "1", "(", '"',
    ],
)  # fmt: skip
def test_a_lead_in_with_a_word_that_may_say_something_about_the_list_is_none(word: str) -> None:
    for lead_in in (f"Here are the {word} diseases:", f"{word} diseases:", f"The diseases in the text are {word}:", f"Sure! {word}:"):
        assert read_answer(f'{lead_in}\n["cough"]', "ner").reason == "other_text"
        assert read_answer(f'{lead_in}\n```json\n["cough"]\n```', "ner").reason == "other_text"


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


LONG = 200_000


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
        *(before + gap * LONG + after for gap in " \n" for before, after in [('["a"]', "`"), ("```json", 'x ["a"]'), ("Sure!", '- ["a"]')]),
        *(f'{{"entities":{gap * LONG}["a"]{gap * LONG}}}{gap * LONG}x' for gap in " \n"),
        *(f'{word * LONG}["a"]' for word in ["the ", "in the ", "here is ", "Sure! ", "# "]),
    ],
    ids=lambda text: text[:12],
)
def test_long_answers_are_read_in_time_that_grows_with_them(text: str) -> None:
    """In a second or two; what is quadratic takes hours, and ends by the time limit of a test."""
    for kind in KINDS:
        assert read_answer(text, kind).status == "malformed"


def unbounded(parsed: Any) -> Iterator[str]:
    """The repetitions without an upper bound that may give back what they took."""
    for op, argument in parsed:
        if str(op) in {"MAX_REPEAT", "MIN_REPEAT"} and argument[1] == re._constants.MAXREPEAT:  # type: ignore[attr-defined]
            yield str(argument)
        for part in argument if isinstance(argument, tuple | list) else (argument,):
            for inner in part if isinstance(part, list) else (part,):
                if isinstance(inner, re._parser.SubPattern):  # type: ignore[attr-defined]
                    yield from unbounded(inner)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_repetition_of_a_rule_gives_back_what_it_took(rule: Rule) -> None:
    for pattern in (rule.before, rule.after):
        assert list(unbounded(re._parser.parse(pattern))) == []  # type: ignore[attr-defined]
    assert list(unbounded(re._parser.parse(r"(?:a|\s*)x"))) != []  # type: ignore[attr-defined]
