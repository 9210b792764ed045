"""Training pairs for a reranker: (query document, candidate document) with a graded label.

The label of a pair begins with the share of the query's gold answers that the candidate also has, over that of the query's best
candidate: 1.0 says that no candidate shows more of what is asked for, 0.0 that it shows nothing. It is graded because examples
are ranked, not accepted: a candidate with two of three answers belongs above one with a single answer. Most candidates show
nothing, so the label also keeps some of the order that the cosine gave them. Answers are whatever sets the caller gives
(concept ids, or lower-cased surface forms where a corpus has no concepts).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pair:
    """A labelled pair; ``label`` is in 0..1."""

    query_id: str
    candidate_id: str
    label: float


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Why queries and candidates gave no pair."""

    queries_used: int
    queries_without_gold: int
    queries_without_positive: int
    excluded_self: int
    excluded_duplicate_text: int
    excluded_held_out: int


@dataclass(frozen=True, slots=True)
class QuerySplit:
    """Queries to train on and queries kept to measure, disjoint, each sorted by id."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def gold_share(query_gold: Collection[str], candidate_gold: Collection[str]) -> float:
    """Share of the query's gold that the candidate has, in 0..1; 0.0 for a query without gold."""
    asked = frozenset(query_gold)
    return len(asked.intersection(candidate_gold)) / len(asked) if asked else 0.0


def split_queries(ids: Collection[str], held_out_share: float, max_queries: int | None, seed: int) -> QuerySplit:
    """Set a seeded share of the queries aside, at least one, then draw at most ``max_queries`` of the rest.

    The held-out part does not depend on ``max_queries``, so runs with different budgets are measured on the same queries.

    Raises:
        ValueError: fewer than two queries.
    """
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} training documents have gold answers; a reranker needs at least 2 (one to train on, one to measure)")
    order = [sorted(ids)[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    num_held_out = min(max(1, round(len(order) * held_out_share)), len(order) - 1)
    train = order[num_held_out:]
    return QuerySplit(tuple(sorted(train[:max_queries])), tuple(sorted(order[:num_held_out])))


def make_pairs(
    queries: Sequence[str],
    candidates: Mapping[str, Sequence[str]],
    gold: Mapping[str, Collection[str]],
    texts: Mapping[str, str],
    *,
    pairs_per_query: int,
    nearness_weight: float,
    seed: int,
    held_out: Collection[str] = frozenset(),
) -> tuple[list[Pair], PairCounts]:
    """Label the best-covering candidates of each query, and hard negatives: near by cosine, yet covering little.

    Half of ``pairs_per_query`` are the candidates with the largest shares (never 0). The others are a seeded draw from the
    candidates whose share is at most half of the best one's. A draw, not the nearest ones: if negatives were always nearer than
    positives, the model would learn that near means useless. A query none of whose candidates covers anything is left out.

    Args:
        queries: ids of the training queries.
        candidates: query id -> ids of near documents, nearest first.
        gold: answers of every query and candidate.
        texts: text of every query and candidate.
        pairs_per_query: at most this many pairs of a query.
        nearness_weight: of a candidate's place among the allowed ones, from 1 for the nearest to almost 0, in its label.
        seed: of the draw of hard negatives.
        held_out: documents kept to measure the model; never a candidate, because (a, b) gives (b, a) away.

    Returns:
        Pairs in the order of ``queries``, candidates by falling share; and the counts of what was left out.
    """
    pairs: list[Pair] = []
    without_gold = without_positive = same_id = same_text = kept_back = 0
    for query in queries:
        if not gold[query]:
            without_gold += 1
            continue
        allowed: list[str] = []
        for candidate in dict.fromkeys(candidates[query]):
            if candidate == query:
                same_id += 1
            elif texts[candidate].strip() == texts[query].strip():
                same_text += 1
            elif candidate in held_out:
                kept_back += 1
            else:
                allowed.append(candidate)
        chosen = _choose(query, [(c, gold_share(gold[query], gold[c])) for c in allowed], pairs_per_query, seed)
        without_positive += not chosen
        nearness = {candidate: 1 - place / len(allowed) for place, candidate in enumerate(allowed)}
        for candidate, share in chosen:
            label = (1 - nearness_weight) * share / chosen[0][1] + nearness_weight * nearness[candidate]
            pairs.append(Pair(query, candidate, label))
    used = len(queries) - without_gold - without_positive
    return pairs, PairCounts(used, without_gold, without_positive, same_id, same_text, kept_back)


def _choose(query: str, labelled: Sequence[tuple[str, float]], num: int, seed: int) -> list[tuple[str, float]]:
    ordered = sorted(labelled, key=lambda item: -item[1])  # stable: the nearer of two equals first
    best = ordered[0][1] if ordered else 0.0
    if best == 0.0:
        return []
    positives = [item for item in ordered if item[1] > 0.0][: num // 2]
    taken = {candidate for candidate, _ in positives}
    low = [item for item in labelled if item[1] <= best / 2 and item[0] not in taken]
    drawn = _draw(low, num - len(positives), query, seed)
    return [*positives, *sorted(drawn, key=lambda item: -item[1])]


def _draw(items: Sequence[T], num: int, query: str, seed: int) -> list[T]:
    """Seeded per query, so that a draw depends neither on the other queries nor on their order."""
    digest = hashlib.sha256(f"{seed}\0{query}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return [items[i] for i in sorted(rng.permutation(len(items))[:num].tolist())]
