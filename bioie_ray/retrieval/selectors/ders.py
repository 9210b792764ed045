"""DERS, the method's random baseline that draws examples anew for each query."""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, NoOptions, Pool, Query, draw


class Options(NoOptions):
    """No settings; the seed is the recipe's."""


class Ders(BaseSelector[Options]):
    """A draw without replacement that depends on seed, query id and pool alone. Scores are 0."""

    name = "ders"
    reranks = False

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """``k`` random documents a query."""
        ids = pool.ids
        return [[Candidate(ids[place], 0.0) for place in draw(self.seed, f"query {query.id}", len(ids), k)] for query in queries]


SELECTOR = Ders
