from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.evaluation.marking import Piece, mark_forms, mark_surfaces


def test_marks_whole_words_of_either_case_longest_first() -> None:
    pieces = mark_surfaces("Renal failure and renal pain; prerenal.", ["renal failure", "renal"], ["RENAL FAILURE"])
    assert pieces == [Piece("Renal failure", "shared"), Piece(" and ", ""), Piece("renal", "gold"), Piece(" pain; prerenal.", "")]


def test_forms_that_begin_or_end_in_signs_are_found() -> None:
    assert Piece("Na+", "gold") in mark_surfaces("Serum Na+ fell.", ["na+"], [])
    assert Piece("(S)-ketamine", "gold") in mark_surfaces("of(S)-ketamine,", ["(S)-ketamine"], [])


def test_no_forms_and_no_text() -> None:
    assert mark_surfaces("text", [], []) == [Piece("text", "")]
    assert mark_surfaces("text", ["", " "], []) == [Piece("text", "")]
    assert mark_surfaces("", ["a"], []) == []


@given(
    st.text("aB .+(", max_size=60), st.lists(st.text("aB .+(", max_size=4), max_size=6), st.lists(st.text("aB .+(", max_size=4), max_size=3)
)
def test_pieces_joined_are_the_text(text: str, gold: list[str], shared: list[str]) -> None:
    pieces = mark_surfaces(text, gold, shared)
    assert "".join(p.text for p in pieces) == text
    assert all(p.text for p in pieces)
    assert all(p.text.lower() in {g.lower() for g in gold} for p in pieces if p.kind == "gold")
    assert all(p.text.lower() in {s.lower() for s in shared} for p in pieces if p.kind == "shared")


def test_forms_are_marked_by_their_kinds() -> None:
    pieces = mark_forms("Renal failure, no ulcer.", {"renal failure": "missed", "failure": "wrong", "ulcer": "found"})
    assert pieces == [Piece("Renal failure", "missed"), Piece(", no ", ""), Piece("ulcer", "found"), Piece(".", "")]
