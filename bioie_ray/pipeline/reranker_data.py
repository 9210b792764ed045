"""From prepared corpora to training pairs, and the measurement of a trained reranker on queries that were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bioie_ray.artifacts.output import Output
from bioie_ray.config.steps import RerankSettings, SelectSettings, TrainRerankerSettings
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.tasks import Task, gold, gold_concepts
from bioie_ray.evaluation.ranking import evaluate_rankings
from bioie_ray.pipeline.embed import vector_array
from bioie_ray.pipeline.view import View
from bioie_ray.retrieval.pairs import QuerySplit, make_pairs, split_queries
from bioie_ray.retrieval.pool import DocumentPool, Loaders
from bioie_ray.retrieval.selectors.base import draw

CUT = 10


@dataclass(frozen=True)
class TrainingCorpus:
    """The training documents of one task. ``Output`` is picklable, so this is."""

    task: Task
    corpus: Output
    vectors: Output


@dataclass(frozen=True)
class TrainingData:
    """Pairs of all tasks; ids are prefixed with the corpus, because tasks of one corpus share documents.

    A query that no candidate covers gives no pair.
    """

    texts: Mapping[str, str]
    pairs: Sequence[tuple[str, str]]
    labels: Sequence[float]
    splits: Mapping[str, QuerySplit]
    num_queries_with_pairs: int

    @property
    def num_queries(self) -> int:
        """Queries to train on, over all tasks."""
        return sum(len(split.train) for split in self.splits.values())

    @property
    def num_held_out(self) -> int:
        """Queries kept to measure, over all tasks."""
        return sum(len(split.held_out) for split in self.splits.values())


def answers(task: Task, document: Document) -> frozenset[str]:
    """What a pair's label counts: surface forms and concepts, and for relations their arguments too.

    Whole relations recur too rarely between documents to teach anything: sharing one argument is a start.
    """
    keys = gold(task, document).keys() | gold_concepts(task, document)
    return keys | {argument for key in keys for argument in key.split("|")} if task.kind == "re" else keys


def training_data(corpora: Sequence[TrainingCorpus], settings: TrainRerankerSettings, dev_share: float, seed: int) -> TrainingData:
    """Pairs of every task from its ``train`` split, less a dev split carved out of it and documents with a dev or test text.

    Raises:
        ValueError: a task with fewer than two documents that have answers.
    """
    texts: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    labels: list[float] = []
    splits: dict[str, QuerySplit] = {}
    num_with_pairs = 0
    for part in corpora:
        near = _Neighbours(part, dev_share, seed)
        split = split_queries([id_ for id_ in near.pool.ids if near.pool.gold(id_)], settings.held_out_share, settings.max_queries, seed)
        candidates = near.nearest(split.train, settings.candidates_per_query + 1)
        used = sorted({*split.train, *(c for found in candidates.values() for c in found)})
        own_texts = {id_: near.pool.text(id_) for id_ in used}
        made, counts = make_pairs(
            split.train,
            candidates,
            {id_: near.pool.gold(id_) for id_ in used},
            own_texts,
            pairs_per_query=settings.pairs_per_query,
            nearness_weight=settings.nearness_weight,
            seed=seed,
            held_out=frozenset(split.held_out),
        )
        prefix = part.task.corpus
        texts.update({f"{prefix}:{id_}": text for id_, text in own_texts.items()})
        pairs += [(f"{prefix}:{pair.query_id}", f"{prefix}:{pair.candidate_id}") for pair in made]
        labels += [pair.label for pair in made]
        splits[part.task.key] = split
        num_with_pairs += counts.queries_used
    return TrainingData(texts, pairs, labels, splits, num_with_pairs)


def held_out_rankings(
    corpora: Sequence[TrainingCorpus],
    data: TrainingData,
    rerank: RerankSettings,
    settings: TrainRerankerSettings,
    model: str,
    seed: int,
    dev_share: float,
) -> list[dict[str, Any]]:
    """nDCG@10 and gold coverage@10 on the held-out queries: reranked, by cosine alone, by BM25, and drawn at random."""
    from bioie_ray.retrieval.scorer import PairScorer

    scorer = PairScorer(rerank, model)
    results = []
    for part in corpora:
        queries = data.splits[part.task.key].held_out
        near = _Neighbours(part, dev_share, seed, excluded=frozenset(queries))
        everything = _Neighbours(part, dev_share, seed)
        cosine = near.nearest(queries, settings.candidates_per_query, vectors_of=everything)
        texts = [everything.pool.text(q) for q in queries]
        bm25 = {q: [c.id for c in found] for q, found in zip(queries, near.pool.bm25(texts, CUT), strict=True)}
        ids = near.pool.ids
        random = {q: [ids[i] for i in draw(seed, q, len(ids), CUT)] for q in queries}
        reranked = _rerank(scorer, dict(zip(queries, texts, strict=True)), cosine, near.pool)
        gains = {q: everything.pool.gold(q) for q in queries}
        results += [
            {"task": part.task.key, "method": method, **row}
            for method, row in evaluate_rankings(
                {"reranked": reranked, "cosine": cosine, "bm25": bm25, "random": random},
                gains,
                {id_: near.pool.gold(id_) for id_ in ids},
                CUT,
                seed,
            ).items()
        ]
    return results


class _Neighbours:
    """The training documents of a task as a pool, with what must not be trained on left out."""

    def __init__(self, part: TrainingCorpus, dev_share: float, seed: int, excluded: frozenset[str] = frozenset()) -> None:
        self._part = part
        self._shards = part.corpus.shards(["train"])
        ids = [id_ for shard in self._shards for id_ in part.corpus.read_shard(shard, ["id"])["id"].to_pylist()]
        # What a selection with dev queries leaves out of its pool: a dev split carved from train, and texts of dev and test.
        unseen = View(part.corpus, SelectSettings(queries="dev", dev_share=dev_share), seed).exclusions().ids
        lacking = frozenset(ids) - {id_ for shard in self._shards for id_ in self._load(shard)[0]}
        self.pool = DocumentPool(
            self._shards,
            Loaders(documents=part.corpus.read_shard, vectors=self._load),
            gold_of=lambda document: answers(part.task, document),
            concepts_of=lambda document: gold_concepts(part.task, document),
            excluded=excluded | unseen | lacking,
        )

    def nearest(self, queries: Sequence[str], k: int, vectors_of: _Neighbours | None = None) -> dict[str, list[str]]:
        """The nearest pool documents of each query, nearest first; a query of the pool itself comes first in its own list."""
        if not queries:
            return {}
        found = self.pool.nearest((vectors_of or self).pool.vectors(queries), k)
        return {query: [candidate.id for candidate in hits] for query, hits in zip(queries, found, strict=True)}

    def _load(self, shard: str) -> tuple[list[str], Any]:
        table = self._part.vectors.read_shard(shard, ["id", "vector"])
        return table["id"].to_pylist(), vector_array(table["vector"])


def _rerank(scorer: Any, queries: Mapping[str, str], candidates: Mapping[str, Sequence[str]], pool: DocumentPool) -> dict[str, list[str]]:
    places = {id_: len(queries) + i for i, id_ in enumerate(sorted({c for found in candidates.values() for c in found}))}
    pairs = [(q, places[c]) for q, query in enumerate(queries) for c in candidates[query]]
    texts = [*queries.values(), *(pool.text(id_) for id_ in places)]
    scores = iter(scorer.score(texts, np.array(pairs, dtype=np.int64).reshape(-1, 2)).scores.tolist())
    return {query: [c for _, c in sorted((-next(scores), c) for c in candidates[query])] for query in queries}
