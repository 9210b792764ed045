"""BM25 over the texts of a pool, by the ``bm25s`` library."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import bm25s
import numpy as np
import numpy.typing as npt

# Letters and digits joined by a hyphen, stroke, dot, apostrophe or plus stay one term: IL-2, TNF-alpha, Na+/K+, 0.5.
_TERM = re.compile(r"[^\W_]+\+?(?:[-/.'][^\W_]+\+?)*")
_PART = re.compile(r"[^\W_]+")


def terms(text: str) -> list[str]:
    """The terms of a biomedical text, in order, lower-cased.

    A compound counts whole and by its parts, so that "cocaine-induced" meets "cocaine", and "IL-2" meets "IL 2" though
    itself best. No stop words are dropped and nothing is stemmed: the inverse document frequency already silences the
    frequent, and stemming would join names that differ in their endings.
    """
    found: list[str] = []
    for term in _TERM.findall(unicodedata.normalize("NFKC", text).casefold()):
        found.append(term)
        parts = _PART.findall(term)
        if parts != [term]:
            found.extend(parts)
    return found


class LexicalIndex:
    """BM25 (Lucene's variant, k1 1.5, b 0.75). Scores and order do not depend on the order of the documents."""

    def __init__(self, documents: Iterable[tuple[str, str]]) -> None:
        """``documents`` are pairs of id and text."""
        self._ids: list[str] = []
        self._vocabulary: dict[str, int] = {}
        counted: list[list[int]] = []
        for id_, text in documents:
            self._ids.append(id_)
            counted.append([self._vocabulary.setdefault(term, len(self._vocabulary)) for term in terms(text)])
        self._bm25 = bm25s.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
        if self._vocabulary:
            self._bm25.index((counted, self._vocabulary), create_empty_token=False, show_progress=False)

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        """At most ``k`` (id, score) of documents that share a term with ``text``, best first, ties by id."""
        query = [self._vocabulary[term] for term in terms(text) if term in self._vocabulary]
        if not query:
            return []
        scores: npt.NDArray[np.float32] = self._bm25.get_scores_from_ids(query)
        places = np.flatnonzero(scores > 0)
        if len(places) > k:
            kth = np.partition(scores[places], len(places) - k)[len(places) - k]
            places = places[scores[places] >= kth]
        ranked = sorted((-float(scores[place]), self._ids[place]) for place in places.tolist())
        return [(id_, -negated) for negated, id_ in ranked[:k]]
