"""What a kept document satisfies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from corpus_builders import document, mention
from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.corpora.checks import DocumentError, agrees, check
from bioie_ray.corpora.document import Argument, Mention, Relation, Section, Span

TEXT = "Renal and hepatic toxicity of zolvarin, seen twice."


def test_a_sound_document_is_given_back() -> None:
    sound = document(
        TEXT,
        mention(TEXT, "zolvarin", concept_ids=("D1",)),
        Mention("m1", "Renal toxicity", "Disease", (Span(0, 5), Span(18, 26)), ("D2|D3",)),
        relations=(Relation("r0", "CID", "CID", (Argument("concept", "D1"), Argument("concept", "D3"))),),
        sections=(Section("title", 0, len(TEXT)),),
    )
    assert check(sound) is sound


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Mention("m0", "zolvarin", "Chemical", (Span(30, 31),)), "does not match the text, which has 'z' there"),
        (Mention("m0", "zolvarin", "Chemical", (Span(900, 908),)), "at 900-908 lies beyond the text, which has 51 characters"),
        (Mention("m0", "", "Chemical", (Span(30, 30),)), "at 30-30 is not a span of characters"),
        (Mention("m0", "Renal", "Disease", (Span(-51, -46),)), "is not a span of characters"),
        (Mention("m0", "zolvarin", "Chemical", ()), "has no place in the text"),
        (Mention("m0", "Renal damage", "Disease", (Span(0, 5), Span(18, 26))), "which has 'Renal toxicity' there"),
        (Mention("m0", "Zolvarin", "Chemical", (Span(30, 38),)), "does not match"),
        (Mention("m0", "zolvarin ", "Chemical", (Span(30, 38),)), "does not match"),
    ],
)
def test_a_mention_that_does_not_agree_with_the_text_is_named(broken: Mention, reason: str) -> None:
    with pytest.raises(DocumentError) as caught:
        check(document(TEXT, broken))
    assert reason in caught.value.reason
    assert caught.value.mention_id == "m0"


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        (Argument("concept", "D9"), False),
        (Argument("concept", "m0"), False),
        (Argument("mention", "m0"), True),
        (Argument("mention", "m9"), False),
        (Argument("entity", "e4"), True),
        (Argument("entity", "e5"), False),
    ],
)
def test_relation_arguments_resolve_by_their_kind(argument: Argument, found: bool) -> None:
    related = document(
        TEXT,
        mention(TEXT, "zolvarin", concept_ids=("D1",), entity_id="e4"),
        relations=(Relation("r0", "CID", "CID", (Argument("concept", "D1"), argument)),),
    )
    if found:
        check(related)
    else:
        with pytest.raises(DocumentError, match=f"r0 .* joins {argument.kind} '{argument.ref}'"):
            check(related)


def test_ids_are_unique_and_sections_lie_in_the_text() -> None:
    twice = document(TEXT, mention(TEXT, "zolvarin"), mention(TEXT, "Renal"))
    with pytest.raises(DocumentError, match="mention id 'm0' occurs more than once"):
        check(twice)
    with pytest.raises(DocumentError, match="section 'abstract' is at 40-52, but the text has 51"):
        check(document(TEXT, sections=(Section("abstract", 40, 52),)))
    with pytest.raises(DocumentError, match="no id"):
        check(replace(document(TEXT), id=""))


def test_half_a_surrogate_pair_is_refused_as_no_file_can_hold_it() -> None:
    with pytest.raises(DocumentError, match="surrogate"):
        check(document("a\ud835b"))


@settings(deadline=None)
@given(st.text(min_size=1), st.data())
def test_every_slice_agrees_and_nothing_else_of_its_length_does(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    there = Mention("m0", text[start:end], "Chemical", (Span(start, end),))
    assert agrees(text, there)
    other = data.draw(st.text(min_size=end - start, max_size=end - start))
    assert agrees(text, replace(there, text=other)) == (other == text[start:end])
