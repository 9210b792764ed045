"""What a selector sees and must offer: queries, candidates, the pool, and seeded draws."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bioie_ray.config.base import Settings

Need = Literal["vectors", "bm25"]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool document offered as an example. ``score`` is the retrieval score, larger is better."""

    id: str
    score: float
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A document that wants examples. ``vector`` [d] float32, ``None`` where the selector needs no vectors."""

    id: str
    text: str
    vector: FloatArray | None = None


class Pool(Protocol):
    """The documents that may become examples. Excluded documents are not in it."""

    @property
    def ids(self) -> Sequence[str]:
        """All ids, sorted."""
        ...

    @property
    def size(self) -> int:
        """How many documents there are."""
        ...

    def nearest(self, vectors: FloatArray, k: int) -> list[list[Candidate]]:
        """Per row of ``vectors`` [q, d] the ``k`` nearest documents by cosine, best first, ties by id."""
        ...

    def bm25(self, texts: Sequence[str], k: int) -> list[list[Candidate]]:
        """Per text at most ``k`` documents that share a term with it, best BM25 score first, ties by id."""
        ...

    def vectors(self, ids: Sequence[str]) -> FloatArray:
        """Vectors [len(ids), d] in the order of ``ids``."""
        ...

    def text(self, id: str) -> str:
        """The document's text."""
        ...

    def num_chars(self, id: str) -> int:
        """Length of the text in code points."""
        ...

    def gold(self, id: str) -> frozenset[str]:
        """Lower-cased gold answers; empty for a document without an answer."""
        ...

    def concepts(self, id: str) -> frozenset[str]:
        """Gold concept ids."""
        ...

    @property
    def share_without_answer(self) -> float:
        """The share of pool documents whose gold is empty; 0 for an empty pool."""
        ...


class Selector(Protocol):
    """A way to choose examples. ``reranks`` says whether its candidates go through the cross-encoder by default."""

    name: str
    needs: frozenset[Need]
    reranks: bool

    def retrieve(self, queries: Sequence[Query], pool: Pool, k: int) -> list[list[Candidate]]:
        """Per query at most ``k`` candidates, best first, no id twice."""
        ...

    def choose(self, query: Query, candidates: Sequence[Candidate], pool: Pool, keep: int) -> list[Candidate]:
        """At most ``keep`` of the candidates, which come best first (by rerank score where there is one)."""
        ...


OptionsType = TypeVar("OptionsType", bound=Settings)


class BaseSelector(Generic[OptionsType]):
    """Holds options and seed; chooses the first ``keep``. Subclasses give ``name``, ``needs`` and ``retrieve``."""

    name: str
    needs: frozenset[Need] = frozenset()
    reranks: bool = True

    def __init__(self, options: OptionsType, seed: int) -> None:
        self.options = options
        self.seed = seed

    def choose(self, query: Query, candidates: Sequence[Candidate], pool: Pool, keep: int) -> list[Candidate]:
        """The first ``keep`` candidates."""
        return list(candidates[:keep])


class NoOptions(Settings):
    """For selectors without settings of their own."""


def stack_vectors(queries: Sequence[Query]) -> FloatArray:
    """The vectors of the queries as [q, d] float32; raises ``ValueError`` for a query without one."""
    vectors: list[Any] = []
    for query in queries:
        if query.vector is None:
            raise ValueError(f"query {query.id!r} has no vector; embed the query split with the model of the pool")
        vectors.append(query.vector)
    return np.asarray(vectors, dtype=np.float32) if vectors else np.empty((0, 0), dtype=np.float32)


def draw(seed: int, key: str, size: int, count: int) -> list[int]:
    """``count`` distinct numbers below ``size`` (all of them when there are fewer), in random order.

    A function of its arguments alone, with SHA-256 as the source: the same on every machine and version, which no
    library promises for its generators. A longer draw starts with the shorter one.
    """
    drawn: list[int] = []
    moved: dict[int, int] = {}  # a Fisher-Yates shuffle, of which only the touched places are kept
    for place in range(min(count, size)):
        digest = hashlib.sha256(f"{seed}\x00{key}\x00{place}".encode()).digest()
        other = place + int.from_bytes(digest[:16], "big") % (size - place)
        drawn.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return drawn
