"""A baseline: the longest documents of the pool, the same for every query. Gold coverage flatters length."""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, NoOptions, Pool, Query


class Options(NoOptions):
    """No settings."""


class Longest(BaseSelector[Options]):
    """Scores are lengths in code points."""

    name = "longest"
    reranks = False

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """The ``k`` longest documents, ties by id."""
        ranked = sorted((-pool.num_chars(id_), id_) for id_ in pool.ids)[:k]
        longest = [Candidate(id_, float(-negated)) for negated, id_ in ranked]
        return [list(longest) for _ in queries]


SELECTOR = Longest
