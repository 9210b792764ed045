"""Near documents that together show as many different gold concepts as possible."""

from __future__ import annotations

from collections.abc import Sequence

from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, NoOptions, Pool, Query, stack_vectors


class Options(NoOptions):
    """No settings."""


class Diverse(BaseSelector[Options]):
    """Greedy maximum coverage, which is within 1 - 1/e of the best possible (Nemhauser et al. 1978)."""

    name = "diverse"
    needs = frozenset({"vectors"})

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """The ``k`` nearest documents of each query."""
        return pool.nearest(stack_vectors(queries), k)

    def choose(self, query: Query, candidates: Sequence[Candidate], pool: Pool, keep: int) -> list[Candidate]:
        """Again and again the candidate with most concepts not shown yet; of equals the one that came first."""
        remaining = [(candidate, pool.concepts(candidate.id)) for candidate in candidates]
        shown: set[str] = set()
        chosen: list[Candidate] = []
        while remaining and len(chosen) < keep:
            best = max(range(len(remaining)), key=lambda place: (len(remaining[place][1] - shown), -place))
            candidate, concepts = remaining.pop(best)
            chosen.append(candidate)
            shown |= concepts
        return chosen


SELECTOR = Diverse
