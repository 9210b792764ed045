"""The documents that may become examples, read shard by shard."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bioie_ray.corpora.document import Document, from_table
from bioie_ray.retrieval.lexical import LexicalIndex
from bioie_ray.retrieval.search import FloatArray, search_shards
from bioie_ray.retrieval.selectors.base import Candidate

ShardVectors = tuple[Sequence[str], FloatArray]
Answers = Callable[[Document], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Loaders:
    """How a pool reads its shards, by shard name.

    ``documents`` gives a table of ``DOCUMENT_SCHEMA``; ``vectors`` the ids and unit vectors [n, d] of the same
    documents, in any order (a document without a vector is never near anything); ``index`` the bytes of
    ``build_index`` over just those vectors. Loaders are called again after a shard has left the cache, and must
    give the same each time.
    """

    documents: Callable[[str], pa.Table]
    vectors: Callable[[str], ShardVectors] | None = None
    index: Callable[[str], bytes] | None = None


@dataclass(slots=True)
class _Shard:
    """A shard in memory. Vectors, index and answers are filled in when first asked for."""

    documents: pa.Table
    vectors: ShardVectors | None = None
    rows: dict[str, int] = field(default_factory=dict)
    index: Any = None
    num_index_bytes: int = 0
    gold: dict[int, frozenset[str]] = field(default_factory=dict)
    concepts: dict[int, frozenset[str]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        vectors = 0 if self.vectors is None else self.vectors[1].nbytes
        return int(self.documents.nbytes) + vectors + self.num_index_bytes


class DocumentPool:
    """Implements ``selectors.Pool`` over sharded documents.

    In memory stay ids, lengths and the shards used last, up to ``max_cached_bytes`` (never less than one shard); BM25,
    when asked for, adds its index over all texts.
    """

    def __init__(
        self,
        shards: Sequence[str],
        loaders: Loaders,
        *,
        gold_of: Answers,
        concepts_of: Answers,
        excluded: Collection[str] = frozenset(),
        threads: int = 1,
        max_cached_bytes: int = 256 * 2**20,
    ) -> None:
        """``gold_of`` gives a document's lower-cased answers, ``concepts_of`` its concept ids.

        Raises ``ValueError`` when an id occurs twice in the shards.
        """
        self._shards = tuple(shards)
        self._loaders = loaders
        self._gold_of = gold_of
        self._concepts_of = concepts_of
        self._excluded = frozenset(excluded)
        self._threads = threads
        self._max_cached_bytes = max_cached_bytes
        self._cache: OrderedDict[str, _Shard] = OrderedDict()
        self._places: dict[str, tuple[str, int]] = {}
        self._lengths: dict[str, int] = {}
        for name in self._shards:
            self._survey(name)
        self._ids = tuple(sorted(self._places))
        self._share_without_answer: float | None = None
        self._lexical: LexicalIndex | None = None

    @property
    def ids(self) -> Sequence[str]:
        """All ids but the excluded ones, sorted."""
        return self._ids

    @property
    def size(self) -> int:
        """How many documents there are, excluded ones apart."""
        return len(self._ids)

    @property
    def share_without_answer(self) -> float:
        """The share of documents whose gold is empty (one pass over the shards at first use)."""
        if self._share_without_answer is None:
            without = sum(not self.gold(id_) for id_ in self._places)  # in the order of the shards
            self._share_without_answer = without / self.size if self.size else 0.0
        return self._share_without_answer

    def text(self, id: str) -> str:
        """The document's text."""
        name, row = self._place(id)
        return str(self._load(name).documents["text"][row].as_py())

    def num_chars(self, id: str) -> int:
        """Length of the text in code points."""
        self._place(id)
        return self._lengths[id]

    def document(self, id: str) -> Document:
        """The whole document."""
        name, row = self._place(id)
        return from_table(self._load(name).documents.slice(row, 1))[0]

    def gold(self, id: str) -> frozenset[str]:
        """Lower-cased gold answers, by ``gold_of``."""
        return self._answers(id, "gold", self._gold_of)

    def concepts(self, id: str) -> frozenset[str]:
        """Gold concept ids, by ``concepts_of``."""
        return self._answers(id, "concepts", self._concepts_of)

    def vectors(self, ids: Sequence[str]) -> FloatArray:
        """Vectors [len(ids), d] in the order of ``ids``; raises ``ValueError`` for a document without one."""
        found: dict[str, FloatArray] = {}
        for id_ in sorted(ids, key=self._place):  # so that each shard is visited once
            _, vectors, rows = self._load_vectors(self._place(id_)[0])
            if id_ not in rows:
                raise ValueError(f"document {id_!r} of the pool has no vector; embed the pool again")
            found[id_] = vectors[rows[id_]]
        return np.stack([found[id_] for id_ in ids]) if ids else np.empty((0, 0), dtype=np.float32)

    def nearest(self, vectors: FloatArray, k: int) -> list[list[Candidate]]:
        """Per row of ``vectors`` [q, d] the ``k`` nearest documents by cosine, best first, ties by id.

        Exact, unless there is an index loader.
        """
        if self._loaders.index is None:
            shards = (self._load_vectors(name)[:2] for name in self._shards)
            hits = search_shards(vectors, shards, k, threads=self._threads)
        else:
            from bioie_ray.retrieval.index import search_indexes

            hits = search_indexes(vectors, self._indexed_shards(), k, threads=self._threads)
        return [[Candidate(hit.id, hit.score) for hit in best] for best in hits]

    def bm25(self, texts: Sequence[str], k: int) -> list[list[Candidate]]:
        """Per text at most ``k`` documents that share a term with it, best BM25 score first, ties by id."""
        if self._lexical is None:
            # in the order of the shards, each read once
            self._lexical = LexicalIndex((id_, self.text(id_)) for id_ in self._places)
        return [[Candidate(id_, score) for id_, score in self._lexical.search(text, k)] for text in texts]

    def _survey(self, name: str) -> None:
        documents = self._load(name).documents
        lengths = pc.utf8_length(documents["text"]).to_pylist()
        for row, (id_, length) in enumerate(zip(documents["id"].to_pylist(), lengths, strict=True)):
            if id_ in self._excluded:
                continue
            if id_ in self._places:
                raise ValueError(
                    f"document id {id_!r} is in shard {self._places[id_][0]!r} and again in {name!r}; "
                    "ids must be unique in a pool: choose one corpus and splits that do not overlap"
                )
            self._places[id_] = (name, row)
            self._lengths[id_] = length

    def _place(self, id: str) -> tuple[str, int]:
        try:
            return self._places[id]
        except KeyError:
            why = "it is excluded" if id in self._excluded else "no shard has it"
            raise ValueError(f"document {id!r} is not in the pool: {why}") from None

    def _answers(self, id: str, kind: Literal["gold", "concepts"], answers_of: Answers) -> frozenset[str]:
        name, row = self._place(id)
        known: dict[int, frozenset[str]] = getattr(self._load(name), kind)
        if row not in known:
            known[row] = answers_of(self.document(id))
        return known[row]

    def _load(self, name: str) -> _Shard:
        if name not in self._cache:
            self._cache[name] = _Shard(self._loaders.documents(name))
            self._evict()
        self._cache.move_to_end(name)
        return self._cache[name]

    def _load_vectors(self, name: str) -> tuple[Sequence[str], FloatArray, dict[str, int]]:
        shard = self._load(name)
        if shard.vectors is None:
            shard.vectors = self._read_vectors(name, set(shard.documents["id"].to_pylist()))
            shard.rows = {id_: row for row, id_ in enumerate(shard.vectors[0])}
            self._evict()
        return *shard.vectors, shard.rows

    def _read_vectors(self, name: str, documents: set[str]) -> ShardVectors:
        if self._loaders.vectors is None:
            raise ValueError("this pool was made without vectors, which the chosen selector needs; embed its corpus first")
        ids, vectors = self._loaders.vectors(name)
        strangers = sorted(set(ids) - documents)
        if strangers:
            raise ValueError(f"shard {name!r} has a vector for {strangers[0]!r} but no such document; embed this version of the corpus")
        kept = [row for row, id_ in enumerate(ids) if id_ not in self._excluded]
        if len(kept) == len(ids) or self._loaders.index is not None:  # an index counts its rows as they were
            return ids, vectors
        return [ids[row] for row in kept], np.ascontiguousarray(vectors[kept])

    def _indexed_shards(self) -> Iterator[tuple[Sequence[str | None], FloatArray, Any]]:
        from bioie_ray.retrieval.index import load_index

        assert self._loaders.index is not None
        for name in self._shards:
            ids, vectors, _ = self._load_vectors(name)
            if not ids:
                continue
            shard = self._load(name)
            if shard.index is None:
                data = self._loaders.index(name)
                shard.index, shard.num_index_bytes = load_index(data), len(data)
                self._evict()
            yield [None if id_ in self._excluded else id_ for id_ in ids], vectors, shard.index

    def _evict(self) -> None:
        """Drop the shards used longest ago, never the last one."""
        while len(self._cache) > 1 and sum(shard.num_bytes for shard in self._cache.values()) > self._max_cached_bytes:
            self._cache.popitem(last=False)
