"""Scores of one document's answers: true and false positives and false negatives, added up before any ratio is taken (micro).

``strict`` is the method's own score and the one that every table leads with. The three others stand beside it, under
their own names, and are never mixed with it. In all of them an answer that is given twice counts once, and an answer that
could not be read (``None``) is an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bioie_ray.corpora.tasks import Answer
from bioie_ray.evaluation.gold_view import GoldView, Item, Key, distinct
from bioie_ray.evaluation.matching import maximum_matching

Answers = Sequence[Answer] | None
_TOKEN: Final = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Counts:
    """What was found, what was wrong, what was missed; counts of documents are added with ``+``.

    A ratio of nothing to nothing is 0, as in scikit-learn by default: who answers nothing has precision 0, and who finds
    nothing where nothing is has F1 0. Micro scores of a corpus never meet the second case, because it has gold answers.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the answers that are right."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the gold that was found."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: ``2 tp / (2 tp + fp + fn)``."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def strict(view: GoldView, answers: Answers) -> Counts:
    """The method's score: sets of lower-cased surface forms, or of ordered pairs of them, compared as they are."""
    return compare(view.gold, distinct(answers))


def unordered(view: GoldView, answers: Answers) -> Counts:
    """As ``strict``, but ``(a, b)`` and ``(b, a)`` are one pair, in the gold as in the answer.

    Raises:
        ValueError: the order of this task's pairs means something, or it has no pairs.
    """
    if not view.task.symmetric:
        raise ValueError(
            f"{view.task.key} is not symmetric, so the order of its answers counts; unordered scores are for pairs without one"
        )
    return compare(frozenset(map(view.as_meant, view.gold)), frozenset(map(view.as_meant, distinct(answers))))


def concept(view: GoldView, answers: Answers) -> Counts:
    """Concept-aware: an answer counts when it names the gold concept by any of its surface forms in the document.

    What is counted is concepts: of recognition those of the gold mentions, of relations the pairs of concepts, clusters or
    mentions that a gold relation joins (in order). An answer stands for the gold concepts that its form, or its pair of forms,
    names; several for a composite mention. So a concept found by three names is one true positive, and one whose names were
    all missed is one false negative. An answer that names no gold concept stands for the concept that its form has elsewhere
    in the document, else for itself, and each of those is one false positive: two names of one wrong concept are one mistake.
    A mention without a concept stands for its lower-cased form. A relation one argument of which has no mention in the
    document cannot be named, and does not count.
    """
    wanted = frozenset(item for named in view.concepts.values() for item in named)
    right: set[Item] = set()
    wrong: set[tuple[frozenset[str], ...]] = set()
    for answer in distinct(answers):
        named = view.concepts.get(answer)
        if named:
            right |= named
        else:
            wrong.add(tuple(view.identities.get(form, frozenset((form,))) for form in answer))
    return Counts(len(right), len(wrong), len(wanted - right))


def relaxed(view: GoldView, answers: Answers) -> Counts:
    """Boundary-relaxed: an answer may be a little longer or shorter than the gold form.

    True positives are the exact ones of ``strict`` and the matches of ``boundary_matches``; nothing counts twice. ``relaxed.tp - strict.tp`` is the
    number of boundary errors, but where a pair was given both the wrong way round and a little longer: there the error is the direction's.
    """
    given = distinct(answers)
    found = len(view.gold & given) + len(boundary_matches(view, given))
    return Counts(found, len(given) - found, len(view.gold) - found)


def boundary_matches(view: GoldView, given: frozenset[Key], *, without: frozenset[Key] = frozenset()) -> dict[Key, Key]:
    """Wrong answer -> the missed gold answer that it nearly is: as many as possible, each answer and each gold form once.

    Forms are compared as tokens (words, and each punctuation mark). Two match when they could be overlapping stretches of
    one text: one contains the other, or the end of one is the start of the other and what they share is at least half of the
    longer one. (A plain overlap of token sets would take "vitamin K" for "vitamin D".) A pair matches when both its forms
    do, each in its place. What plainly names something else (``GoldView.names_another``) matches nothing, nor do answers
    ``without`` which to match, given or gold.
    """
    wrong = [answer for answer in sorted(given - view.gold - without) if not view.names_another(answer)]
    missed = sorted(view.gold - given - without)
    edges = [[at for at, target in enumerate(missed) if _near(answer, target)] for answer in wrong]
    return {wrong[left]: missed[right] for left, right in maximum_matching(edges).items()}


def _near(answer: Key, target: Key) -> bool:
    return all(_overlap(tokens(a), tokens(b)) for a, b in zip(answer, target, strict=True))


def tokens(form: str) -> tuple[str, ...]:
    """The words and punctuation marks of a form, lower-cased."""
    return tuple(_TOKEN.findall(form.lower()))


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    short, long = sorted((one, other), key=len)
    if not short:
        return False
    if any(long[start : start + len(short)] == short for start in range(len(long) - len(short) + 1)):
        return True
    shared = range((len(long) + 1) // 2, len(short))
    return any(short[-n:] == long[:n] or long[-n:] == short[:n] for n in shared)


def compare(gold: frozenset[Key], given: frozenset[Key]) -> Counts:
    """The counts of two sets of keys."""
    return Counts(len(gold & given), len(given - gold), len(gold - given))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
