"""Which wrong answers become pairs: balanced, hardest first, none twice, corruptions only where asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioie_ray.config.training import ErrorKind
from bioie_ray.corpora.draws import in_drawn_order
from bioie_ray.training.preferences.choosing import Chooser
from bioie_ray.training.preferences.wrongness import Wrong

ALL: Mapping[ErrorKind, float] = {"missed": 1.0, "invented": 1.0, "boundary": 1.0, "direction": 1.0, "malformed": 0.25}


def wrong(kind: ErrorKind, f1: float = 0.5, text: str = "") -> Wrong:
    return Wrong(text or f"{kind} {f1}", kind, f1)


def none(_: ErrorKind) -> None:
    """Nothing can be corrupted."""


def any_kind(kind: ErrorKind) -> Wrong:
    return wrong(kind, text=f"made {kind}")


def test_kinds_come_as_often_as_they_are_wanted() -> None:
    chooser = Chooser({"missed": 2.0, "invented": 1.0, "malformed": 0.5, "boundary": 0.0}, 1.0, 0)
    offered = [wrong(kind) for kind in ("malformed", "boundary", "invented", "missed")]
    for number in range(70):
        (one,) = chooser.choose(f"d{number}", offered, none, 1)
        assert one.made_by == "model"
    assert chooser.kinds == {"missed": 40, "invented": 20, "malformed": 10}


def test_corruptions_make_good_what_the_model_does_not_give() -> None:
    chooser = Chooser({"missed": 1.0, "invented": 1.0}, 1.0, 0)
    made = [chooser.choose(f"d{n}", [wrong("missed")] if n % 2 == 0 else [], any_kind, 1) for n in range(40)]
    assert Counter((one.made_by, one.wrong.kind) for (one,) in made) == {("corruption", "invented"): 20, ("model", "missed"): 20}


def test_a_kind_that_the_model_never_gives_is_filled_up_to_a_part_of_its_share() -> None:
    chooser = Chooser(ALL, 1.0, 0, 0.5)
    made = [one for n in range(425) for one in chooser.choose(f"d{n}", [wrong("missed")], any_kind, 1)]
    assert chooser.kinds == {"missed": 265, "invented": 50, "boundary": 49, "direction": 49, "malformed": 12}
    assert {one.wrong.kind for one in made if one.made_by == "model"} == {"missed"}
    assert [one.made_by for one in made[:8]] == ["model"] * 8, "a few pairs are no reason"


def test_what_the_model_gives_itself_is_not_filled_up() -> None:
    chooser = Chooser({"missed": 1.0, "invented": 1.0}, 1.0, 0, 1.0)
    made = [one for n in range(40) for one in chooser.choose(f"d{n}", [wrong("missed"), wrong("invented")], any_kind, 1)]
    assert chooser.kinds == {"missed": 20, "invented": 20}
    assert {one.made_by for one in made} == {"model"}


@pytest.mark.parametrize(("corruptions", "corrupt"), [(0.0, any_kind), (1.0, none)], ids=["not allowed", "none can be made"])
def test_what_cannot_be_filled_up_stays_the_models(corruptions: float, corrupt: Callable[[ErrorKind], Wrong | None]) -> None:
    chooser = Chooser(ALL, corruptions, 0, 1.0)
    made = [one for n in range(40) for one in chooser.choose(f"d{n}", [wrong("missed", text="a"), wrong("missed", text="b")], corrupt, 3)]
    assert chooser.kinds == {"missed": 80}
    assert {one.made_by for one in made} == {"model"}


def test_what_cannot_be_made_of_a_document_is_left_to_the_next_kind() -> None:
    chooser = Chooser(ALL, 1.0, 0)
    (one,) = chooser.choose("d", [], lambda kind: any_kind(kind) if kind == "malformed" else None, 1)
    assert (one.wrong.kind, one.document) == ("malformed", "d")
    assert chooser.choose("e", [], none, 1) == []


def test_of_a_kind_the_hardest_and_of_equals_the_first() -> None:
    offered = [wrong("missed", 0.2), wrong("missed", 0.8, "first"), wrong("missed", 0.8, "second"), wrong("missed", 0.4)]
    chosen = Chooser(ALL, 1.0, 0).choose("d", offered, none, 3)
    assert [one.wrong.text for one in chosen] == ["first", "second", "missed 0.4"]


def test_a_kind_that_is_not_wanted_never_comes() -> None:
    assert Chooser({"missed": 1.0, "invented": 0.0}, 1.0, 0).choose("d", [wrong("invented"), wrong("boundary")], none, 2) == []


def test_the_order_of_the_recipe_says_nothing() -> None:
    """It is in no fingerprint."""
    offered = [wrong(kind) for kind in ALL]
    one, other = Chooser(ALL, 1.0, 0), Chooser(dict(reversed(ALL.items())), 1.0, 0)
    for number in range(12):
        assert one.choose(f"d{number}", offered, none, 1) == other.choose(f"d{number}", offered, none, 1)
    shares: Mapping[ErrorKind, float] = {"missed": 0.1, "invented": 0.2, "boundary": 0.3}  # whose sum has an order
    one, other = Chooser(shares, 1.0, 0, 1.0), Chooser(dict(reversed(shares.items())), 1.0, 0, 1.0)
    for number in range(40):
        assert one.choose(f"d{number}", offered[:1], any_kind, 1) == other.choose(f"d{number}", offered[:1], any_kind, 1)


@given(
    st.lists(st.builds(wrong, st.sampled_from(list(ALL)), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from("abcde")), max_size=8),
    st.integers(1, 5),
)
def test_no_text_comes_twice_and_no_more_than_asked(offered: list[Wrong], num_pairs: int) -> None:
    judged = list({one.text: one for one in offered}.values())  # a text is judged once for all
    chosen = Chooser(ALL, 0.0, 0).choose("d", judged + judged, none, num_pairs)
    texts = [one.wrong.text for one in chosen]
    assert len(set(texts)) == len(texts) == min(num_pairs, len(judged))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_corruptions_are_a_share_of_the_documents_that_were_answered_right(share: float) -> None:
    made = {n for n in range(400) if Chooser(ALL, share, 3).choose(f"d{n}", [], any_kind, 1)}
    again = {n for n in range(400) if Chooser(ALL, share, 3).choose(f"d{n}", [], any_kind, 2)}
    other = {n for n in range(400) if Chooser(ALL, share, 4).choose(f"d{n}", [], any_kind, 1)}
    assert made == again
    assert (made != other) == (0 < share < 1)
    assert abs(len(made) - 400 * share) <= (40 if 0 < share < 1 else 0)
    assert len(Chooser(ALL, share, 3).choose("d", [wrong("missed")], any_kind, 2)) == 1  # beside a wrong answer there is none


def test_documents_come_in_an_order_of_ids_and_seed_alone() -> None:
    ids = [f"d{n}" for n in range(30)]
    order = in_drawn_order(ids, "preferences", 1)
    assert sorted(order) == sorted(ids)
    assert order == in_drawn_order(ids[::-1], "preferences", 1) != ids
    assert order != in_drawn_order(ids, "preferences", 2)
