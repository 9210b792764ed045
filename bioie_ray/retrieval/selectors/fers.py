"""FERS, the method's random baseline that draws one set of examples per run."""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, NoOptions, Pool, Query, draw


class Options(NoOptions):
    """No settings; the seed is the recipe's."""


class Fers(BaseSelector[Options]):
    """One draw without replacement for all queries, from seed and pool alone. Scores are 0."""

    name = "fers"
    reranks = False

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """The same ``k`` random documents, in the same order, for every query."""
        ids = pool.ids
        drawn = [Candidate(ids[place], 0.0) for place in draw(self.seed, "run", len(ids), k)]
        return [list(drawn) for _ in queries]


SELECTOR = Fers
