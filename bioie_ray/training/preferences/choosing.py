"""Which wrong answer stands against the gold of each document.

The policy: of a document's wrong answers, one of the kind that is furthest behind its wanted share so far; among those of a kind the hardest,
with the highest F1; of equal ones the first sample. A document with no wrong answer (every sample was right, or broken off by the token limit and so
left out) gets a corrupted gold answer, of the kind that is furthest behind. Documents come in a drawn order, so that no corpus' first documents take the rare kinds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from bioie_ray.config.training import ErrorKind
from bioie_ray.training.preferences.wrongness import Wrong


@dataclass(frozen=True, slots=True)
class Chosen:
    """A wrong answer and whose it is: the model's, or made from the gold."""

    document: str
    wrong: Wrong
    made_by: str


class Chooser:
    """Takes one document after the other and keeps count of the kinds."""

    def __init__(self, wanted: Mapping[ErrorKind, float], corruptions: float, seed: int) -> None:
        self._wanted = {kind: share for kind, share in wanted.items() if share > 0}
        self._corruptions = corruptions
        self._seed = seed
        self.kinds = Counter[ErrorKind]()

    def choose(self, document: str, answers: Sequence[Wrong], corrupt: Callable[[ErrorKind], Wrong | None], num_pairs: int) -> list[Chosen]:
        """The wrong answers of one document, at most ``num_pairs``, no text twice."""
        left = list({answer.text: answer for answer in answers if answer.kind in self._wanted}.values())
        taken: list[Chosen] = []
        while left and len(taken) < num_pairs:
            kind = self._furthest_behind({answer.kind for answer in left})
            hardest = max((answer for answer in left if answer.kind == kind), key=lambda answer: answer.f1)
            left.remove(hardest)
            taken.append(self._take(document, hardest, "model"))
        if not taken and self._may_corrupt(document):
            for kind in self._by_need(set(self._wanted)):
                made = corrupt(kind)
                if made is not None:
                    taken.append(self._take(document, made, "corruption"))
                    break
        return taken

    def _take(self, document: str, wrong: Wrong, made_by: str) -> Chosen:
        self.kinds[wrong.kind] += 1
        return Chosen(document, wrong, made_by)

    def _furthest_behind(self, kinds: set[ErrorKind]) -> ErrorKind:
        return self._by_need(kinds)[0]

    def _by_need(self, kinds: set[ErrorKind]) -> list[ErrorKind]:
        """Kinds by how many there are for each that is wanted; of equals in one fixed order, as the order of a mapping is in no fingerprint."""
        return sorted((kind for kind in get_args(ErrorKind) if kind in kinds), key=lambda kind: self.kinds[kind] / self._wanted[kind])

    def _may_corrupt(self, document: str) -> bool:
        number = int.from_bytes(hashlib.sha256(f"corrupted:{self._seed}:{document}".encode()).digest()[:8], "big")
        return number < self._corruptions * 2**64
