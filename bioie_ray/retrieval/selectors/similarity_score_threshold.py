"""The nearest documents that are near enough: the search type ``similarity_score_threshold``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from bioie_ray.config.base import Settings
from bioie_ray.retrieval.search import Relevance, relevance
from bioie_ray.retrieval.selectors.base import BaseSelector, Candidate, Pool, Query, stack_vectors


class Options(Settings):
    """The threshold and what it is compared with."""

    threshold: float = Field(default=0.79, le=1.0, description="candidates below it are left out")
    relevance: Relevance = Field(default="cosine", description="`langchain`: 1 - d^2/sqrt(2), as the reference's vector store computes it")


class SimilarityScoreThreshold(BaseSelector[Options]):
    """Of the ``k`` nearest, those at or above the threshold: possibly fewer than are to be kept, possibly none."""

    name = "similarity_score_threshold"
    needs = frozenset({"vectors"})

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """Scores stay cosines, whatever formula the threshold is compared with."""
        return [
            [candidate for candidate in nearest if self._is_near(candidate.score)] for nearest in pool.nearest(stack_vectors(queries), k)
        ]

    def _is_near(self, cosine: float) -> bool:
        # scores are float32 numbers: a score equal to the threshold must not fail by the threshold's further digits
        return bool(np.float32(relevance(cosine, self.options.relevance)) >= np.float32(self.options.threshold))


SELECTOR = SimilarityScoreThreshold
