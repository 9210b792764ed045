"""Which wrong answer stands against the gold of each document.

The policy: of a document's wrong answers, one of the kind that is furthest behind its wanted share so far; among those of a kind the hardest,
with the highest F1; of equal ones the first sample. A document with no wrong answer (every sample was right, or broken off by the token limit and so
left out) gets a corrupted gold answer, of the kind that is furthest behind. So does a document whose wrong answers are of other kinds, while one has fallen below
a part of its wanted share: some kinds a model hardly ever gives. Documents come in a drawn order, so that no corpus' first documents take the rare kinds.
"""

from __future__ import annotations

import hashlib
import math
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

    def __init__(self, wanted: Mapping[ErrorKind, float], corruptions: float, seed: int, fill_kinds: float = 0.0) -> None:
        """The settings of ``preferences``: ``kinds``, ``corruptions``, the recipe's seed, and ``fill_kinds``."""
        self._wanted = {kind: share for kind, share in wanted.items() if share > 0}
        self._corruptions = corruptions
        self._fill_kinds = fill_kinds
        self._seed = seed
        self.kinds = Counter[ErrorKind]()

    def choose(self, document: str, answers: Sequence[Wrong], corrupt: Callable[[ErrorKind], Wrong | None], num_pairs: int) -> list[Chosen]:
        """The wrong answers of one document, at most ``num_pairs``, no text twice."""
        left = list({answer.text: answer for answer in answers if answer.kind in self._wanted}.values())
        taken: list[Chosen] = []
        may_corrupt = self._may_corrupt(document)
        while left and len(taken) < num_pairs:
            offered = {answer.kind for answer in left}
            lacking = self._lacking()
            made = self._made(lacking, corrupt) if may_corrupt and not offered.intersection(lacking) else None
            if made is not None and made.text not in {one.wrong.text for one in taken}:
                taken.append(self._take(document, made, "corruption"))
                continue
            kind = self._by_need(offered)[0]
            hardest = max((answer for answer in left if answer.kind == kind), key=lambda answer: answer.f1)
            left.remove(hardest)
            taken.append(self._take(document, hardest, "model"))
        if not taken and may_corrupt:
            made = self._made(self._by_need(set(self._wanted)), corrupt)
            taken += [self._take(document, made, "corruption")] if made is not None else []
        return taken

    def _made(self, kinds: Sequence[ErrorKind], corrupt: Callable[[ErrorKind], Wrong | None]) -> Wrong | None:
        """A corrupted gold answer of the first of these kinds that the document has one of."""
        return next((made for kind in kinds if (made := corrupt(kind)) is not None), None)

    def _lacking(self) -> list[ErrorKind]:
        """Kinds that with the next pair would stay below the part of their wanted share that is to be filled up, those in most need first."""
        each = self._fill_kinds * (self.kinds.total() + 1) / math.fsum(self._wanted.values())  # whatever their order
        return [kind for kind in self._by_need(set(self._wanted)) if self.kinds[kind] < math.floor(each * self._wanted[kind])]

    def _take(self, document: str, wrong: Wrong, made_by: str) -> Chosen:
        self.kinds[wrong.kind] += 1
        return Chosen(document, wrong, made_by)

    def _by_need(self, kinds: set[ErrorKind]) -> list[ErrorKind]:
        """Kinds by how many there are for each that is wanted; of equals in one fixed order, as the order of a mapping is in no fingerprint."""
        return sorted((kind for kind in get_args(ErrorKind) if kind in kinds), key=lambda kind: self.kinds[kind] / self._wanted[kind])

    def _may_corrupt(self, document: str) -> bool:
        number = int.from_bytes(hashlib.sha256(f"corrupted:{self._seed}:{document}".encode()).digest()[:8], "big")
        return number < self._corruptions * 2**64
