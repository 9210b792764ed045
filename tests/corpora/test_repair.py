"""Each repair rule: when it is used, what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from corpus_builders import mention
from hypothesis import given, settings
from hypothesis import strategies as st

from bioie_ray.corpora.checks import agrees
from bioie_ray.corpora.document import Mention, Repair, Span
from bioie_ray.corpora.repair import MAX_SHIFT, clean_ids, mend

TEXT = "Loss of Braf, Kras and Nf1 raises Erk levels; Braf alone does not, as shown in 12 mice."


def _claim(text: str, start: int, end: int, id: str = "m0", type: str = "Gene") -> Mention:
    return Mention(id, text, type, (Span(start, end),))


def _shifted(one: Mention, shift: int) -> Mention:
    return replace(one, spans=tuple(Span(span.start + shift, span.end + shift) for span in one.spans))


def test_what_agrees_is_not_touched() -> None:
    mentions = (mention(TEXT, "Kras"), mention(TEXT, "Erk", id="m1"))
    assert mend(TEXT, mentions) == (mentions, ())


@pytest.mark.parametrize(
    ("rule", "text", "claimed", "there"),
    [
        ("strip_mention", TEXT, " Erk  ", "Erk"),
        ("take_text_case", TEXT, "ERK", "Erk"),
        ("take_text_symbol", "the α-catenin gene", "a-catenin", "α-catenin"),
        ("take_text_symbol", "the E-cadherin gene", "E cadherin", "E-cadherin"),
        ("take_text_symbol", "the AP 2 gene", "AP\u00a02", "AP 2"),
        ("take_text_letters", "the IL-1β gene", "IL-1beta", "IL-1β"),
        ("take_text_letters", "the TNFα gene", "TNF-a", "TNFα"),
        ("take_text_letters", "the BRCA1 gene", "BRCA 1", "BRCA1"),
        ("take_text_letters", "the p21 (Cip1) gene", "p21(Cip1)", "p21 (Cip1)"),
    ],
)
def test_a_spelling_is_taken_from_the_text(rule: str, text: str, claimed: str, there: str) -> None:
    start = text.index(there)
    (mended,), repairs = mend(text, [_claim(claimed, start, start + len(there))])
    assert mended == _claim(there, start, start + len(there))
    (note,) = repairs
    assert note.rule == rule
    assert repr(claimed) in note.detail
    assert repr(there) in note.detail


@pytest.mark.parametrize("claimed", ["Ark", "Er", "Erk1", "E-k", "   "])
def test_another_word_is_not_taken_from_the_text(claimed: str) -> None:
    assert TEXT[34:37] == "Erk"
    wrong = _claim(claimed, 34, 37)
    assert mend(TEXT, [wrong]) == ((wrong,), ())


@pytest.mark.parametrize(("claimed", "there"), [("Erk", "Erk,"), ("Erk", "(Erk"), ("Erk 2", "Erk 3"), ("--", "- -"), ("", "Erk")])
def test_a_span_that_takes_in_something_else_is_not_taken_from_the_text(claimed: str, there: str) -> None:
    wrong = _claim(claimed, 0, len(there))
    assert mend(there, [wrong]) == ((wrong,), ())


@pytest.mark.parametrize("shift", [-MAX_SHIFT, -7, -1, 1, 7, MAX_SHIFT])
def test_a_run_that_is_off_by_one_amount_is_moved_back(shift: int) -> None:
    text = f"{'x' * 30} {TEXT} {'y' * 30}"
    right = [mention(text, name, id=f"m{i}") for i, name in enumerate(("Loss", "Braf", "Kras", "Nf1", "levels"))]
    wrong = [right[0], *(_shifted(one, shift) for one in right[1:4]), right[4]]
    mended, repairs = mend(text, wrong)
    assert list(mended) == right
    assert [note.rule for note in repairs] == ["shift_span"] * 3


def test_a_run_further_off_than_the_limit_stays() -> None:
    text = f"{'x' * 40} {TEXT}"
    wrong = tuple(_shifted(mention(text, name, id=name), -MAX_SHIFT - 1) for name in ("Kras", "Nf1"))
    assert mend(text, wrong) == (wrong, ())


def test_one_mention_alone_moves_only_to_the_sole_place_it_can_mean() -> None:
    kras = mention(TEXT, "Kras")
    assert mend(TEXT, [_shifted(kras, 3)])[0] == (kras,)
    between = "x Braf and Braf x"
    ambiguous = _claim("Braf", 5, 9)
    assert mend(between, [ambiguous]) == ((ambiguous,), ())
    part_of_a_word = _claim("row", 3, 6)
    assert mend("a trowel", [part_of_a_word]) == ((part_of_a_word,), ())


def test_one_mention_alone_does_not_move_onto_another_of_its_type() -> None:
    kras = mention(TEXT, "Kras", type="Gene")
    wrong = replace(_shifted(kras, 3), id="m1")
    assert mend(TEXT, [kras, wrong]) == ((kras, wrong), ())
    other_type = replace(wrong, type="FamilyName")
    assert mend(TEXT, [kras, other_type])[0][1].spans == kras.spans


def test_a_mention_beyond_the_text_is_never_moved_into_it() -> None:
    text = "treated with zolvarin"
    beyond = _claim("zolvarin", 16, 24)
    assert mend(text, [beyond]) == ((beyond,), ())


@pytest.mark.parametrize(("rule", "encoding", "size"), [("offsets_in_bytes", "utf-8", 1), ("offsets_in_utf16", "utf-16-le", 2)])
def test_offsets_that_count_encoded_units_become_code_points(rule: str, encoding: str, size: int) -> None:
    text = "κ-casein 𝛂 and β-casein raise Erk"
    right = [mention(text, name, id=name) for name in ("κ-casein", "β-casein", "Erk")]

    def units(offset: int) -> int:
        return len(text[:offset].encode(encoding)) // size

    wrong = [replace(m, spans=(Span(units(m.spans[0].start), units(m.spans[0].end)),)) for m in right]
    mended, repairs = mend(text, wrong)
    assert list(mended) == right
    assert [note.rule for note in repairs] == [rule]


def test_fragments_without_the_hyphen_that_joins_them_take_the_text() -> None:
    text = "alpha- and beta-blockers"
    wrong = Mention("m0", "alpha-blockers", "Chemical", (Span(0, 5), Span(16, 24)))
    (mended,), (note,) = mend(text, [wrong])
    assert (mended.text, note.rule) == ("alpha blockers", "take_text_fragments")
    other = Mention("m0", "beta-blockers", "Chemical", (Span(0, 5), Span(16, 24)))
    assert mend(text, [other]) == ((other,), ())


def test_fragments_in_another_order_take_the_text() -> None:
    text = "Toxicity, renal"
    wrong = Mention("m0", "Renal toxicity", "Disease", (Span(0, 8), Span(10, 15)))
    (mended,), (note,) = mend(text, [wrong])
    assert (mended.text, note.rule) == ("Toxicity renal", "take_text_fragments")
    assert agrees(text, mended)


@pytest.mark.parametrize(
    ("column", "separators", "ids", "rules"),
    [
        ("D1|D2", "|", ("D1", "D2"), []),
        ("-1", "|", (), []),
        ("", "|", (), []),
        ("D1|-1|D1", "|", ("D1",), []),
        (" D1+OMIM:2 ", "|+", ("D1", "OMIM:2"), ["strip_id", "strip_id"]),
        ("MESH:C535", "|+", ("C535",), ["bare_mesh_id"]),
        ("12,34;56", ",;", ("12", "34", "56"), []),
        ("D1+D2", "|", ("D1+D2",), []),
    ],
)
def test_id_columns(column: str, separators: str, ids: tuple[str, ...], rules: list[str]) -> None:
    found, repairs = clean_ids(column, separators, "m3")
    assert found == ids
    assert [note.rule for note in repairs] == rules


_SPANS = st.tuples(st.integers(-3, 40), st.integers(-3, 40)).map(lambda pair: Span(*pair))
_MENTIONS = st.lists(
    st.builds(Mention, st.just("m"), st.text("abAB β-", max_size=4), st.sampled_from(["X", "Y"]), st.lists(_SPANS, max_size=2).map(tuple)),
    max_size=6,
)


@settings(deadline=None)
@given(st.text("abAB β-𝛂", max_size=30), _MENTIONS)
def test_whatever_comes_mentions_keep_number_order_and_all_but_place_and_spelling(text: str, mentions: list[Mention]) -> None:
    mended, repairs = mend(text, mentions)
    assert len(mended) == len(mentions)
    for before, after in zip(mentions, mended, strict=True):
        assert replace(after, text=before.text, spans=before.spans) == before
        assert agrees(text, after) or not agrees(text, before) or any(r.rule.startswith("offsets_in") for r in repairs)
        if before != after and not any(r.rule.startswith("offsets_in") for r in repairs):
            assert agrees(text, after)
    assert all(isinstance(note, Repair) and note.rule and note.detail for note in repairs)
    if tuple(mentions) != mended:
        assert repairs
