"""Near the query and unlike each other: the search type ``mmr`` (Carbonell & Goldstein 1998)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from bioie_ray.config.base import Settings
from bioie_ray.retrieval.search import mmr
from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, Pool, Query, stack_vectors


class Options(Settings):
    """Settings of maximal marginal relevance."""

    lambda_mult: float = Field(default=0.5, ge=0.0, le=1.0, description="1: relevance only; 0: diversity only")
    fetch_k: int | None = Field(default=None, ge=1, description="nearest documents to choose from; left out: twice k")


class Mmr(BaseSelector[Options]):
    """Chooses ``k`` of the ``fetch_k`` nearest; candidates come in the order of their choice, scores are cosines."""

    name = "mmr"
    needs = frozenset({"vectors"})

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """Raises ``ValueError`` when ``fetch_k`` is smaller than ``k``."""
        fetch_k = self.options.fetch_k or 2 * k
        if fetch_k < k:
            raise ValueError(
                f"select.options.fetch_k is {fetch_k} but select.k={k} candidates are to be chosen from them; "
                f"set select.options.fetch_k to at least {k}"
            )
        vectors = stack_vectors(queries)
        chosen: list[list[Candidate]] = []
        for vector, fetched in zip(vectors, pool.nearest(vectors, fetch_k), strict=True):
            ids = [candidate.id for candidate in fetched]
            places = mmr(vector, ids, pool.vectors(ids), k, self.options.lambda_mult)
            chosen.append([fetched[place] for place in places])
        return chosen


SELECTOR = Mmr
