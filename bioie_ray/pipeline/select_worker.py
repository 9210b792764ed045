"""What runs in the actors of a selection: one shard of queries in, its ranked examples out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from bioie_ray.artifacts.files import local_copy
from bioie_ray.artifacts.output import Output
from bioie_ray.config.steps import RerankSettings
from bioie_ray.corpora.tasks import Task, gold, gold_concepts
from bioie_ray.pipeline.embed import vector_array
from bioie_ray.pipeline.view import View
from bioie_ray.retrieval.pool import DocumentPool, Loaders
from bioie_ray.retrieval.selectors import Candidate, Query, make_selector

if TYPE_CHECKING:
    from bioie_ray.retrieval.scorer import PairScorer

SELECTION_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("rank", pa.int32()),
        ("example_id", pa.string()),
        ("retrieval_score", pa.float32()),
        ("rerank_score", pa.float32()),
    ]
)


@dataclass(frozen=True)
class SelectionInputs:
    """Everything a selection reads; picklable. ``reranker`` is a trained output, a model reference, or ``None``."""

    task: Task
    view: View
    vectors: Output | None
    index: Output | None
    reranker: Output | str | None
    rerank_settings: RerankSettings


class SelectWorker:
    """Holds the pool and the models; queries come and go shard by shard, so memory does not grow with their number."""

    def __init__(self, inputs: SelectionInputs, output: Output) -> None:
        self._inputs = inputs
        self._output = output
        view = inputs.view
        self._keep = view.settings.keep
        self._k = view.settings.k
        self._selector = make_selector(view.settings.method, view.settings.options, view.seed + view.settings.repeat)
        self._pool = DocumentPool(
            view.pool_shards(),
            Loaders(
                documents=view.corpus.read_shard,
                vectors=self._load_vectors if inputs.vectors else None,
                index=self._load_index if inputs.index else None,
            ),
            gold_of=lambda document: gold(inputs.task, document).keys(),
            concepts_of=lambda document: gold_concepts(inputs.task, document),
            excluded=view.exclusions().ids,
            threads=inputs.rerank_settings.threads,
        )
        if not self._pool.size:
            raise ValueError(
                f"no document is left to be an example: all of {' and '.join(view.settings.pool)} are queries, or have the text of a query "
                "or a test document; set select.queries to another split than select.pool"
            )
        self._scorer = self._make_scorer()

    def process(self, unit: str) -> None:
        """Select for one shard of queries and commit it; a query that cannot be served goes to quarantine."""
        queries, quarantined = self._queries(unit)
        candidates = self._selector.retrieve(queries, self._pool, self._k)
        num_pairs = num_truncated = 0
        if self._scorer is not None:
            candidates, num_truncated, failed = self._rerank(queries, candidates)
            num_pairs = sum(map(len, candidates))
            quarantined += [{"shard": unit, **reason} for reason in failed]
        rows: list[dict[str, Any]] = []
        num_short = 0
        for query, offered in zip(queries, candidates, strict=True):
            chosen = self._selector.choose(query, offered, self._pool, self._keep)
            num_short += len(chosen) < self._keep
            rows += [_row(query, rank, candidate) for rank, candidate in enumerate(chosen, start=1)]
        counts = {
            "queries": len(queries),
            "short_queries": num_short,
            "pairs_scored": num_pairs,
            "pairs_truncated": num_truncated,
        }
        self._output.commit(unit, pa.Table.from_pylist(rows, schema=SELECTION_SCHEMA), counts, quarantined)

    def _queries(self, unit: str) -> tuple[list[Query], list[dict[str, Any]]]:
        table = self._inputs.view.queries(unit, ["id", "text"])
        ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
        if self._inputs.vectors is None:
            return [Query(id_, text) for id_, text in zip(ids, texts, strict=True)], []
        known_ids, vectors = self._load_vectors(self._inputs.view.corpus_shard(unit))
        rows = {id_: row for row, id_ in enumerate(known_ids)}
        queries, lacking = [], []
        for id_, text in zip(ids, texts, strict=True):
            if id_ in rows:
                queries.append(Query(id_, text, vectors[rows[id_]]))
            else:
                lacking.append({"shard": unit, "id": id_, "reason": "it has no vector; see the quarantine of the vectors", "raw": ""})
        return queries, lacking

    def _rerank(
        self, queries: Sequence[Query], candidates: Sequence[Sequence[Candidate]]
    ) -> tuple[list[list[Candidate]], int, list[dict[str, Any]]]:
        """Candidates by descending cross-encoder score, ties by id; a pair that cannot be scored leaves the list."""
        assert self._scorer is not None
        ids = sorted({candidate.id for offered in candidates for candidate in offered})
        place = {id_: len(queries) + i for i, id_ in enumerate(ids)}
        texts = [query.text for query in queries] + [self._pool.text(id_) for id_ in ids]
        pairs = np.array(
            [(q, place[candidate.id]) for q, offered in enumerate(candidates) for candidate in offered], dtype=np.int64
        ).reshape(-1, 2)
        scored = self._scorer.score_for_top(texts, pairs, keep=self._keep)
        reranked: list[list[Candidate]] = [[] for _ in queries]
        failed = []
        flat = (candidate for offered in candidates for candidate in offered)
        for (q, _), candidate, score in zip(pairs.tolist(), flat, scored.scores.tolist(), strict=True):
            if np.isfinite(score):
                reranked[q].append(dataclasses.replace(candidate, rerank_score=score))
            else:
                reason = f"the cross-encoder cannot score it with {candidate.id}"
                failed.append({"id": queries[q].id, "reason": reason, "raw": ""})
        for offered in reranked:
            offered.sort(key=lambda c: (-(c.rerank_score or 0.0), c.id))
        return reranked, int(scored.truncated.sum()), failed

    def _load_vectors(self, shard: str) -> tuple[Sequence[str], Any]:
        assert self._inputs.vectors is not None
        table = self._inputs.vectors.read_shard(shard, ["id", "vector"])
        return table["id"].to_pylist(), vector_array(table["vector"])

    def _load_index(self, shard: str) -> bytes:
        assert self._inputs.index is not None
        return bytes(self._inputs.index.read_shard(shard, ["index"])["index"][0].as_py())

    def _make_scorer(self) -> PairScorer | None:
        reranker = self._inputs.reranker
        if reranker is None:
            return None
        path: str | Path = local_copy(reranker, "model") if isinstance(reranker, Output) else reranker
        return _load_scorer(self._inputs.rerank_settings, str(path))


@lru_cache(maxsize=1)
def _load_scorer(settings: RerankSettings, path: str) -> PairScorer:
    """Loaded once per process: the cells of a matrix share a reranker."""
    from bioie_ray.retrieval.scorer import PairScorer

    return PairScorer(settings, path)


def _row(query: Query, rank: int, candidate: Candidate) -> dict[str, Any]:
    return {
        "query_id": query.id,
        "rank": rank,
        "example_id": candidate.id,
        "retrieval_score": candidate.score,
        "rerank_score": candidate.rerank_score,
    }
