"""How good a ranking is: nDCG with graded gains, and the gold coverage of its first places."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bioie_ray.evaluation.coverage import bootstrap_mean, query_coverage
from bioie_ray.retrieval.pairs import gold_share


def ndcg(gains: Sequence[float], ideal: Sequence[float], k: int) -> float:
    """Normalised discounted cumulative gain of the first ``k``: ``gains`` in ranked order over ``ideal``, all gains there are.

    Jarvelin & Kekalainen 2002, with linear gains and a logarithmic discount of base 2; 0 where nothing can be gained.
    """
    best = _dcg(sorted(ideal, reverse=True)[:k])
    return _dcg(gains[:k]) / best if best > 0 else 0.0


def evaluate_rankings(
    rankings: Mapping[str, Mapping[str, Sequence[str]]],
    query_gold: Mapping[str, Collection[str]],
    pool_gold: Mapping[str, Collection[str]],
    k: int,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """nDCG@k and gold coverage@k of several methods on the same queries, each as a mean with its 95 % interval.

    Args:
        rankings: method -> query id -> pool ids, best first.
        query_gold: answers of every query.
        pool_gold: answers of every document of the pool; a document's gain is the share of the query's gold it has.
        k: how many places count.
        seed: of the bootstrap.

    Returns:
        method -> ``{"k", "ndcg", "coverage"}``, the last two as the fields of ``Interval``.
    """
    ideal = {q: [gold_share(gold, other) for other in pool_gold.values()] for q, gold in query_gold.items()}
    result = {}
    for method, ranked in rankings.items():
        gained = [ndcg([gold_share(query_gold[q], pool_gold[d]) for d in ranked[q][:k]], ideal[q], k) for q in sorted(query_gold)]
        covered = [query_coverage(query_gold[q], [pool_gold[d] for d in ranked[q][:k]]) or 0.0 for q in sorted(query_gold)]
        result[method] = {"k": k, "ndcg": asdict(bootstrap_mean(gained, seed)), "coverage": asdict(bootstrap_mean(covered, seed))}
    return result


def _dcg(gains: Sequence[float]) -> float:
    return float(np.sum(np.asarray(gains, dtype=np.float64) / np.log2(np.arange(2, len(gains) + 2))))
