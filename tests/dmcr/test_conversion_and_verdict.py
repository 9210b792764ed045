from __future__ import annotations

import pytest

from bioie_ray.dmcr.conversion import CONVERSION_PROMPTS, conversion_messages, conversion_text, read_conversion
from bioie_ray.dmcr.verdict import judge
from bioie_ray.prompting.answers import Kind, format_list

KINDS: list[Kind] = ["ner", "re"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversion_shows_the_answer_and_no_document(kind: Kind) -> None:
    messages = conversion_messages(" - asthma\n", kind)
    assert [message.role for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[0].content.startswith(CONVERSION_PROMPTS[kind].instruction)
    assert messages[-1].content == "<answer>\n- asthma\n</answer>"
    text = conversion_text(" - asthma\n", kind)
    assert text.endswith("<answer>\n- asthma\n</answer>\nList:")
    for example, answers in CONVERSION_PROMPTS[kind].examples:
        assert read_conversion(format_list(answers), kind) == answers
        assert example in text
        assert format_list(answers) in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_worked_examples_do_what_the_instruction_says(kind: Kind) -> None:
    for example, answers in CONVERSION_PROMPTS[kind].examples:
        assert judge(example, "", answers, answers, kind).invented_a == ()


def test_a_reply_may_be_dressed() -> None:
    assert read_conversion('```json\n["a"]\n```', "ner") == ("a",)
    assert read_conversion("[('a', 'b')]", "re") == (("a", "b"),)
    assert read_conversion("a, b", "ner") is None


def test_agreement_is_of_sets_without_case() -> None:
    verdict = judge("Asthma; cough", "", ("Asthma", "cough", "cough"), ("COUGH", "asthma"), "ner")
    assert (verdict.outcome, verdict.corrected) == ("agreed", ("Asthma", "cough", "cough"))
    assert judge("x", "", ("a",), ("a", "b"), "ner").outcome == "differ"


def test_the_order_within_a_pair_counts() -> None:
    assert judge("a b", "", (("a", "b"), ("b", "c")), (("B", "c"), ("A", "b")), "re").outcome == "agreed"
    verdict = judge("a b", "", (("a", "b"),), (("b", "a"),), "re")
    assert (verdict.outcome, verdict.corrected) == ("differ", None)


def test_a_joined_pair_is_not_another_one() -> None:
    assert judge("x", "", (("a|b", "c"),), (("a", "b|c"),), "re").outcome == "differ"


def test_empty_lists_agree_and_are_told_apart() -> None:
    assert judge("There are none.", "", (), (), "ner").outcome == "agreed_empty"
    assert judge("There are none.", "", (), (), "ner").corrected == ()


def test_what_is_no_list_agrees_with_nothing() -> None:
    for a, b in ((None, ("x",)), (("x",), None), (None, None)):
        verdict = judge("x", "x", a, b, "ner")
        assert (verdict.outcome, verdict.corrected) == ("differ", None)


def test_invented_is_what_neither_answer_nor_document_has() -> None:
    verdict = judge("ASTHMA and\n  chronic cough", "The child had Fever.", ("asthma", "chronic  cough", "fever", "flu"), ("flu",), "ner")
    assert (verdict.invented_a, verdict.invented_b) == (("flu",), ("flu",))
    pairs = judge("quinine: tinnitus", "Deafness.", (("quinine", "deafness"), ("quinine", "flu"), ("aspirin", "tinnitus")), None, "re")
    assert (pairs.invented_a, pairs.invented_b) == ((("quinine", "flu"), ("aspirin", "tinnitus")), ())
