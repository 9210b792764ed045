"""Whether two evaluators agree about an answer, and what they made up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bioie_ray.corpora.tasks import answer_key, forms, spaced
from bioie_ray.prompting.answers import Answers, Kind

Outcome = Literal["agreed", "agreed_empty", "differ"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``outcome`` of the comparison; ``corrected`` is the list agreed on, in the first evaluator's spelling, and ``None`` where they differ.

    ``invented_a`` and ``invented_b`` are items that are neither in the answer nor in the document.
    """

    outcome: Outcome
    corrected: Answers | None
    invented_a: Answers
    invented_b: Answers


def judge(answer: str, document_text: str, list_a: Answers | None, list_b: Answers | None, kind: Kind) -> Verdict:
    """Compare two conversions of an answer: as sets, case aside, pairs in their order.

    A conversion that is no list (``None``) agrees with nothing. Both empty is ``agreed_empty``: the answer says something, as nobody
    converts one that does not, and names nothing.
    """
    assert all(isinstance(item, str) == (kind == "ner") for item in (*(list_a or ()), *(list_b or ())))
    sources = (spaced(answer), spaced(document_text))
    invented_a, invented_b = _invented(list_a, sources), _invented(list_b, sources)
    if list_a is None or list_b is None or set(map(answer_key, list_a)) != set(map(answer_key, list_b)):
        return Verdict("differ", None, invented_a, invented_b)
    return Verdict("agreed" if list_a else "agreed_empty", list_a, invented_a, invented_b)


def _invented(answers: Answers | None, sources: tuple[str, str]) -> Answers:
    return tuple(item for item in answers or () if not all(_is_in(side, sources) for side in forms(item)))


def _is_in(name: str, sources: tuple[str, str]) -> bool:
    folded = spaced(name)
    return any(folded in source for source in sources)
