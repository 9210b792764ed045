"""Which documents of a prepared corpus are queries and which may be examples."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from bioie_ray.artifacts.output import Output
from bioie_ray.config.steps import SelectSettings
from bioie_ray.corpora.tasks import carve_dev

TESTS = ("test", "test_ner")


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Documents of the pool's splits that must not be examples, and why so many."""

    ids: frozenset[str]
    num_queries: int
    num_duplicate_texts: int


@dataclass(frozen=True)
class View:
    """The queries and the pool of one selection, over the shards of a corpus.

    Where the corpus has no dev split, ``dev`` is a seeded share of ``train``: the shard ``dev-00002`` then stands for
    the carved documents of ``train-00002``.
    """

    corpus: Output
    settings: SelectSettings
    seed: int

    def query_units(self) -> list[str]:
        """Names of the query shards, one output shard each.

        Raises:
            ValueError: the corpus has no such split.
        """
        split = self.settings.queries
        own = self.corpus.shards([split])
        if own:
            return own
        if split == "dev":
            return [_as_split(shard, "dev") for shard in self.corpus.shards(["train"])]
        splits = sorted({shard.rpartition("-")[0] for shard in self.corpus.shards()})
        raise ValueError(
            f"{self.corpus.location} has no {split} split (it has {', '.join(splits)}); set select.queries to one it has, "
            "or to dev, which is carved from train where there is none"
        )

    def corpus_shard(self, unit: str) -> str:
        """The corpus shard that a query unit lies in."""
        return _as_split(unit, "train") if self._is_carved else unit

    def queries(self, unit: str, columns: Iterable[str]) -> pa.Table:
        """The query documents of a unit; ``columns`` must hold ``id``."""
        table = self.corpus.read_shard(self.corpus_shard(unit), list(columns))
        if not self._is_carved:
            return table
        carved = self._carved
        return table.filter(pc.is_in(table["id"], pa.array(sorted(carved), pa.string())))

    def pool_shards(self) -> list[str]:
        """Corpus shards whose documents may be examples.

        Raises:
            ValueError: there is none.
        """
        shards = self.corpus.shards(self.settings.pool)
        if not shards:
            raise ValueError(
                f"{self.corpus.location} has no {' or '.join(self.settings.pool)} split to take examples from; set select.pool"
            )
        return shards

    def exclusions(self) -> Exclusions:
        """Queries themselves, and documents with the text of a query or of any test document."""
        query_ids: set[str] = set()
        texts: set[bytes] = set()
        for unit in self.query_units():
            table = self.queries(unit, ["id", "text"])
            query_ids.update(table["id"].to_pylist())
            texts.update(map(normalised_digest, table["text"].to_pylist()))
        for shard in self.corpus.shards(TESTS):
            texts.update(map(normalised_digest, self.corpus.read_shard(shard, ["text"])["text"].to_pylist()))
        themselves: set[str] = set()
        twins: set[str] = set()
        for id_, text in self._pool_texts():
            if id_ in query_ids:
                themselves.add(id_)
            elif normalised_digest(text) in texts:
                twins.add(id_)
        return Exclusions(frozenset(themselves | twins), len(themselves), len(twins))

    @property
    def _is_carved(self) -> bool:
        return self.settings.queries == "dev" and not self.corpus.shards(["dev"])

    @cached_property
    def _carved(self) -> frozenset[str]:
        ids: list[str] = []
        for shard in self.corpus.shards(["train"]):
            ids += self.corpus.read_shard(shard, ["id"])["id"].to_pylist()
        return carve_dev(ids, self.settings.dev_share, self.seed)

    def _pool_texts(self) -> Iterator[tuple[str, str]]:
        for shard in self.pool_shards():
            table = self.corpus.read_shard(shard, ["id", "text"])
            yield from zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)


def normalised_digest(text: str) -> bytes:
    """16 bytes by which two texts count as the same: compatibility forms, case and white space do not matter."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(folded.encode(), digest_size=16).digest()


def _as_split(shard: str, split: str) -> str:
    return f"{split}-{shard.rpartition('-')[2]}"
