"""Nearest neighbours and BM25 together, by reciprocal rank fusion (Cormack, Clarke & Buettcher 2009)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from bioie_ray.config.base import Settings
from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, Pool, Query, stack_vectors


class Options(Settings):
    """Settings of the fusion."""

    constant: int = Field(default=60, ge=1, description="added to every rank; 60 is the paper's")
    depth: int | None = Field(default=None, ge=1, description="length of each fused list; left out: twice k")


class Hybrid(BaseSelector[Options]):
    """A document's score is the sum of ``1 / (constant + rank)`` over the lists it is in."""

    name = "hybrid"
    needs = frozenset({"vectors", "bm25"})

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """The ``k`` best fused documents of each query, ties by id."""
        depth = self.options.depth or 2 * k
        nearest = pool.nearest(stack_vectors(queries), depth)
        lexical = pool.bm25([query.text for query in queries], depth)
        return [self._fuse(lists)[:k] for lists in zip(nearest, lexical, strict=True)]

    def _fuse(self, lists: Sequence[Sequence[Candidate]]) -> list[Candidate]:
        scores: dict[str, float] = {}
        for ranked in lists:
            for rank, candidate in enumerate(ranked, start=1):
                scores[candidate.id] = scores.get(candidate.id, 0.0) + 1.0 / (self.options.constant + rank)
        return [Candidate(id_, score) for id_, score in sorted(scores.items(), key=lambda item: (-item[1], item[0]))]


SELECTOR = Hybrid
