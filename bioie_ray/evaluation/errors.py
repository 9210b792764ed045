"""What kinds of mistakes a document's answers hold: every wrong answer and every missed gold answer gets one kind.

They add up to the strict counts: ``fp`` is the sum of ``WRONG_KINDS``, and ``fn`` that of ``MISSED_KINDS``. A boundary or a
direction error is one wrong answer and one missed gold answer at once, so both sums have it. Duplicates come on top: they
are in no score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

from bioie_ray.corpora.tasks import answer_key
from bioie_ray.evaluation.gold_view import GoldView, Key, distinct
from bioie_ray.evaluation.scoring import Answers, boundary_matches

ErrorKind = Literal["missed", "boundary", "direction", "wrong_type", "partial", "invented", "spurious", "duplicate"]
ERROR_KINDS: Final[tuple[ErrorKind, ...]] = get_args(ErrorKind)
WRONG_KINDS: Final[tuple[ErrorKind, ...]] = ("boundary", "direction", "wrong_type", "partial", "invented", "spurious")
MISSED_KINDS: Final[tuple[ErrorKind, ...]] = ("missed", "boundary", "direction")
ERROR_MEANINGS: Final[Mapping[ErrorKind, str]] = {
    "missed": "a gold answer that nothing comes near",
    "boundary": "longer or shorter than a gold answer that is missing",
    "direction": "a gold pair that is missing, with its two arguments exchanged",
    "wrong_type": "a mention of another type",
    "partial": "a pair with one argument of a gold pair in its place",
    "invented": "not in the document's text",
    "spurious": "in the text, but no answer",
    "duplicate": "given more than once",
}


def errors(view: GoldView, answers: Answers) -> dict[ErrorKind, int]:
    """How many of each kind; every kind is there. A wrong answer's kind is the first of these that fits.

    * ``direction``: a gold pair reversed, where that gold pair is missing. For a symmetric task this is an error of the
      ordered scores only.
    * ``wrong_type``: a mention of another type in this document, and of none of the task's.
    * ``boundary``: matched by ``boundary_matches`` with a missing gold answer that no ``direction`` error is about.
    * ``invented``: a form of it is not in the document's text.
    * ``partial``: a pair that shares an argument with a gold pair, in its place (in either place for a symmetric task).
    * ``spurious``: everything else; it stands in the text.

    A gold answer that no boundary and no direction error accounts for is ``missed``.
    """
    given = distinct(answers)
    found: dict[ErrorKind, int] = dict.fromkeys(ERROR_KINDS, 0)
    for kind in judge(view, answers).values():
        if kind != "right":
            found[kind] += 1
    found["missed"] = len(view.gold - given) - found["boundary"] - found["direction"]
    found["duplicate"] = len(answers or ()) - len(given)
    return found


def judge(view: GoldView, answers: Answers) -> dict[Key, ErrorKind | Literal["right"]]:
    """Every distinct answer with its kind, or ``right``; in the order given."""
    given = distinct(answers)
    missing = view.gold - given
    reversed_pairs = frozenset(answer for answer in given - view.gold if len(answer) == 2 and answer[::-1] in missing)
    # A missing pair that was given the wrong way round is accounted for: nothing else is its boundary error.
    near = boundary_matches(view, given, without=reversed_pairs | {pair[::-1] for pair in reversed_pairs})
    listed = dict.fromkeys(answer_key(answer) for answer in answers or ())
    return {answer: "right" if answer in view.gold else _kind(view, given, near, answer) for answer in listed}


def _kind(view: GoldView, given: frozenset[Key], near: Mapping[Key, Key], answer: Key) -> ErrorKind:
    if len(answer) == 2 and answer[::-1] in view.gold - given:
        return "direction"
    if len(answer) == 1 and view.names_another(answer):
        return "wrong_type"
    if answer in near:
        return "boundary"
    if not view.in_text(answer):
        return "invented"
    return "partial" if len(answer) == 2 and _shares_argument(view, answer) else "spurious"


def _shares_argument(view: GoldView, answer: Key) -> bool:
    pairs = view.gold | {pair[::-1] for pair in view.gold} if view.task.symmetric else view.gold
    return any(a == b for pair in pairs for a, b in zip(answer, pair, strict=True))
