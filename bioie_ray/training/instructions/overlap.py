"""Whether a text holds what a test document says: so many words in a row that are the same.

A test document that is shorter than that is looked for as a whole, unless it has hardly any words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bioie_ray.training.instructions.words import Hashes, ngram_hashes, word_hashes, words

MIN_WORDS: Final = 5


@dataclass(frozen=True)
class OverlapIndex:
    """The n-grams of all test documents: by their length, sorted, and a bit for each corpus that has them."""

    corpora: tuple[str, ...]
    grams: dict[int, tuple[Hashes, NDArray[np.uint64]]]

    @classmethod
    def build(cls, texts: Iterable[tuple[str, str]], num_words: int) -> OverlapIndex:
        """From (corpus, text of a test document)."""
        names: dict[str, int] = {}
        found: dict[int, list[tuple[Hashes, int]]] = {}
        for corpus, text in texts:
            bit = names.setdefault(corpus, len(names))
            hashes = word_hashes(text)
            length = min(num_words, len(hashes))
            if length < MIN_WORDS:
                continue
            found.setdefault(length, []).append((np.unique(ngram_hashes(hashes, length)), bit))
        grams = {length: _merged(entries) for length, entries in sorted(found.items())}
        return cls(tuple(names), grams)

    def corpora_in(self, hashes: Hashes) -> list[str]:
        """The corpora of which a text, given by its word hashes, holds a test document's words."""
        bits = 0
        for length, (known, owners) in self.grams.items():
            grams = ngram_hashes(hashes, length)
            if not len(grams):
                continue
            places = np.minimum(np.searchsorted(known, grams), len(known) - 1)
            hits = owners[places[known[places] == grams]]
            bits |= int(np.bitwise_or.reduce(hits)) if len(hits) else 0
        return [name for place, name in enumerate(self.corpora) if bits >> place & 1]


def too_short(texts: Iterable[tuple[str, str]]) -> Counter[str]:
    """How many test documents have too few words to be looked for, by corpus."""
    return Counter(corpus for corpus, text in texts if len(words(text)) < MIN_WORDS)


def _merged(entries: list[tuple[Hashes, int]]) -> tuple[Hashes, NDArray[np.uint64]]:
    hashes = np.concatenate([grams for grams, _ in entries])
    bits = np.concatenate([np.full(len(grams), 1 << bit, dtype=np.uint64) for grams, bit in entries])
    order = np.argsort(hashes, kind="stable")
    hashes, bits = hashes[order], bits[order]
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    return hashes[starts], np.bitwise_or.reduceat(bits, starts)
