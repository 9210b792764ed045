"""What is wrong with an answer, in the few kinds that preference pairs are balanced by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bioie_ray.config.training import ErrorKind
from bioie_ray.dmcr.reading import read_answer
from bioie_ray.evaluation.errors import ErrorKind as FineKind
from bioie_ray.evaluation.errors import errors
from bioie_ray.evaluation.gold_view import GoldView, distinct
from bioie_ray.evaluation.scoring import strict

# Of two kinds that an answer has as often, the first names it: the finer mistake.
_COARSE: Final[Mapping[ErrorKind, tuple[FineKind, ...]]] = {
    "direction": ("direction",),
    "boundary": ("boundary",),
    "invented": ("invented", "spurious", "wrong_type", "partial"),
    "missed": ("missed",),
}


@dataclass(frozen=True, slots=True)
class Wrong:
    """A wrong answer: its main kind of mistake and its strict F1, which says how hard it is to tell from a right one."""

    text: str
    kind: ErrorKind
    f1: float


def judge(view: GoldView, text: str, max_f1: float) -> Wrong | None:
    """What is wrong with an answer's text; ``None`` if nothing is: it is the gold as a set, or too near to it to be called wrong.

    An answer that no rule makes a list of is malformed, whatever it says. One in a code fence, say, is read: how it is dressed is no mistake
    of extraction. Over a document with nothing to find, every item is one too many. Where a task's pairs have no direction, one the other way round is
    no mistake to teach, though the strict score counts it as one.
    """
    answers = read_answer(text, view.task.kind).cleaned
    if answers is None:
        return Wrong(text, "malformed", 0.0)
    if set(map(view.as_meant, distinct(answers))) == set(map(view.as_meant, view.gold)):
        return None
    f1 = strict(view, answers).f1
    if f1 > max_f1:
        return None
    found = errors(view, answers)
    counts: dict[ErrorKind, int] = {kind: sum(found[fine] for fine in fines) for kind, fines in _COARSE.items()}
    if view.task.symmetric:
        del counts["direction"]
    return Wrong(text, max(counts, key=lambda kind: counts[kind]), f1)
