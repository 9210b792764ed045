"""The nearest documents by cosine: the search type ``similarity``."""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, NoOptions, Pool, Query, stack_vectors


class Options(NoOptions):
    """No settings."""


class Similarity(BaseSelector[Options]):
    """Exact or indexed nearest neighbours, as the pool searches."""

    name = "similarity"
    needs = frozenset({"vectors"})

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """The ``k`` nearest documents of each query; scores are cosines."""
        return pool.nearest(stack_vectors(queries), k)


SELECTOR = Similarity
