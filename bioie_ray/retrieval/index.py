"""Approximate search: one FAISS index a shard, with exact scores for whatever the indexes propose.

``flat`` needs no index, see ``bioie_ray.retrieval.search``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import faiss
import numpy as np

from bioie_ray.config.steps import IndexSettings
from bioie_ray.retrieval.search import (
    DoubleArray,
    FloatArray,
    Hit,
    Rows,
    TopK,
    check_queries,
    error_bound,
    rescore,
)

# FAISS asks for at least 39 training vectors a cell and warns below.
_VECTORS_PER_LIST = 39
_BLOCK_QUERIES = 1_024
# Proposals beyond k: FAISS's float32 scores may order the last ones otherwise than the exact scores do.
_MARGIN = 16
# Large IVF indexes hold 4-bit product codes of every two dimensions, a sixteenth of the vectors, instead of the vectors:
# on 100,000 sentence vectors at recall@30 0.99 6.5 times as many queries a second (2,381 against 360, one core), exact
# rescoring of four times k proposals included.
_CODED_FROM = 10_000
_CODED_PROPOSALS = 4
# On those vectors a code's score lies 0.03 below the exact one on average, with a standard deviation of 0.02.
_CODED_ERROR = 0.1

Index = faiss.Index
IndexedShard = tuple[Sequence[str | None], FloatArray | Rows, Index]


def build_index(vectors: FloatArray, settings: IndexSettings, seed: int, *, threads: int = 1) -> bytes:
    """The serialised index of one shard of unit vectors [n, d]; same arguments, same bytes.

    A shard too small for ``ivf_lists`` cells gets fewer. Raises ``ValueError`` for an empty shard and for kind
    ``flat``, which has no index.
    """
    if settings.kind == "flat":
        raise ValueError("index.kind=flat searches the vectors themselves; set index.kind=ivf or index.kind=hnsw to build one")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or not len(vectors):
        raise ValueError(f"vectors of shape {vectors.shape} make no index; expected [vectors, dimensions], at least one")
    index = _build_ivf(vectors, settings, seed, threads) if settings.kind == "ivf" else _build_hnsw(vectors, settings, seed)
    return bytes(faiss.serialize_index(index))


def load_index(data: bytes) -> Index:
    """The index that ``build_index`` made; raises ``ValueError`` for bytes that are none."""
    try:
        return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2]
        raise ValueError(f"these {len(data)} bytes are no FAISS index ({reason}); build the index again") from error


def search_indexes(queries: FloatArray, shards: Iterable[IndexedShard], k: int, *, threads: int = 1) -> list[list[Hit]]:
    """About the ``k`` best vectors of all shards for each query [q, d]; scores and order of the found are exact.

    A shard is its ids, its unit vectors ([n, d] or a function from row numbers [m] to [m, d]) and its index. A row
    whose id is ``None`` is never found: a document that was excluded after the index was built.
    """
    queries = check_queries(queries, k)
    if not len(queries):
        return []
    bound = error_bound(queries, 1.0)
    top = TopK(len(queries), k)
    for ids, vectors, index in shards:
        if index.ntotal != len(ids) or index.d != queries.shape[1]:
            raise ValueError(
                f"an index of {index.ntotal} vectors of {index.d} dimensions does not fit {len(ids)} ids and queries "
                f"of {queries.shape[1]} dimensions; build the index again from these vectors"
            )
        faiss.omp_set_num_threads(threads)
        wanted = np.array([id_ is not None for id_ in ids], dtype=bool)
        num_proposals, slack = _proposals(index, k, bound)
        ask = min(len(ids), num_proposals + int(np.count_nonzero(~wanted)))
        for start in range(0, len(queries), _BLOCK_QUERIES):
            block = slice(start, start + _BLOCK_QUERIES)
            proposed, rows = index.search(queries[block], ask)
            promising = (rows >= 0) & wanted[rows] & (proposed + slack[block, None] >= top.floor[block, None])
            query, column = np.nonzero(promising)
            found = rows[query, column]
            query += start
            top.add(query, [str(ids[row]) for row in found.tolist()], rescore(queries, query, vectors, found))
        del ids, vectors, index  # or this shard would still be held while the next one is read
    return top.hits()


def _proposals(index: Index, k: int, bound: DoubleArray) -> tuple[int, DoubleArray]:
    """How many vectors to ask the index for, and per query how far its scores may lie from exact ones."""
    if isinstance(index, faiss.IndexIVFPQFastScan):
        return _CODED_PROPOSALS * k, bound + _CODED_ERROR
    return k + _MARGIN, bound


def recall(found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]]) -> float:
    """The mean share of each query's exact hits that were found; queries without an exact hit do not count."""
    shares = [len({hit.id for hit in best} & {hit.id for hit in some}) / len(best) for some, best in zip(found, exact, strict=True) if best]
    return sum(shares) / len(shares) if shares else 1.0


def _build_ivf(vectors: FloatArray, settings: IndexSettings, seed: int, threads: int) -> Any:
    faiss.omp_set_num_threads(threads)
    num_vectors, dimensions = vectors.shape
    num_lists = min(settings.ivf_lists, max(1, num_vectors // _VECTORS_PER_LIST))
    coded = num_vectors >= _CODED_FROM and dimensions % 2 == 0
    code = f"PQ{dimensions // 2}x4fs" if coded else "Flat"
    index: Any = faiss.index_factory(dimensions, f"IVF{num_lists},{code}", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed % 2**31
    index.cp.min_points_per_centroid = 1  # a cell of few vectors is no reason to warn
    if coded:
        index.pq.cp.seed = seed % 2**31
    index.train(vectors)
    index.add(vectors)
    index.nprobe = min(settings.ivf_probes, num_lists)
    return index


def _build_hnsw(vectors: FloatArray, settings: IndexSettings, seed: int) -> Any:
    # more threads would insert in whatever order they get the locks: another graph each time
    faiss.omp_set_num_threads(1)
    index: Any = faiss.IndexHNSWFlat(vectors.shape[1], settings.hnsw_links, faiss.METRIC_INNER_PRODUCT)
    swig: Any = faiss  # the stubs leave this class out
    index.hnsw.rng = swig.RandomGenerator(seed % 2**31)
    index.hnsw.efConstruction = settings.hnsw_build_depth
    index.hnsw.efSearch = settings.hnsw_search_depth
    index.add(vectors)
    return index
