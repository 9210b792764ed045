"""The documents that share most of the query's rare terms (BM25)."""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, NoOptions, Pool, Query


class Options(NoOptions):
    """No settings."""


class Bm25(BaseSelector[Options]):
    """Lexical retrieval; a query that shares terms with fewer than ``k`` documents gets fewer."""

    name = "bm25"
    needs = frozenset({"bm25"})

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """The ``k`` best documents of each query; scores are BM25 scores."""
        return pool.bm25([query.text for query in queries], k)


SELECTOR = Bm25
