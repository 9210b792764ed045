"""Near documents, among which those without an answer have the share that they have in the pool.

A model that sees only documents with answers learns that there always is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, NoOptions, Pool, Query, stack_vectors


class Options(NoOptions):
    """No settings."""


class Balanced(BaseSelector[Options]):
    """The best-scored of either kind; at least one without an answer when the pool has any."""

    name = "balanced"
    needs = frozenset({"vectors"})

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """``k`` candidates a query: the nearest of either kind, in the pool's proportion; looks further until found."""
        vectors = stack_vectors(queries)
        found: dict[int, list[Candidate]] = {}
        pending = list(range(len(queries)))
        depth = k
        while pending:
            for place, nearest in zip(pending, pool.nearest(vectors[pending], depth), strict=True):
                candidates = _take(nearest, pool, k)
                if depth >= pool.size or _num_empty(candidates, pool) == _quota(pool, k):
                    found[place] = candidates
            pending = [place for place in pending if place not in found]
            depth *= 2
        return [found[place] for place in range(len(queries))]

    def choose(self, query: Query, candidates: Sequence[Candidate], pool: Pool, keep: int) -> list[Candidate]:
        """``keep`` of the candidates in the pool's proportion, in the order they came."""
        return _take(candidates, pool, keep)


def _quota(pool: Pool, count: int) -> int:
    """How many of ``count`` documents should have no answer. A single example is never one of them by force."""
    share = pool.share_without_answer
    if share in {0.0, 1.0} or count < 2:
        return round(share * count)
    return min(max(1, round(share * count)), count - 1)


def _take(candidates: Sequence[Candidate], pool: Pool, count: int) -> list[Candidate]:
    """The first of either kind, as many as the quota says; what one kind lacks the other fills."""
    empty = [place for place, candidate in enumerate(candidates) if not pool.gold(candidate.id)]
    answered = sorted(set(range(len(candidates))) - set(empty))
    num_empty = max(min(_quota(pool, count), len(empty)), count - len(answered))
    return [candidates[place] for place in sorted(empty[:num_empty] + answered[: count - num_empty])][:count]


def _num_empty(candidates: Sequence[Candidate], pool: Pool) -> int:
    return sum(not pool.gold(candidate.id) for candidate in candidates)


SELECTOR = Balanced
