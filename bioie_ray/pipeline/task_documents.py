"""The documents of a corpus that a model may be trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from bioie_ray.artifacts.output import Output
from bioie_ray.config.steps import SelectSettings, Split
from bioie_ray.corpora.document import Document, from_table
from bioie_ray.pipeline.view import TESTS, View, normalised_digest


@dataclass(frozen=True)
class Chosen:
    """The documents of a shard, and how many were left out: carved for dev, or of the same text as a dev or test document."""

    documents: tuple[Document, ...]
    num_dev: int = 0
    num_same_text: int = 0


@dataclass(frozen=True)
class TaskDocuments:
    """Shards of train (and dev, where asked for) of one corpus. A corpus without a dev split has one carved from train, which is not train."""

    corpus: Output
    splits: tuple[Split, ...]
    dev_share: float
    seed: int

    def shards(self) -> list[str]:
        """Names of the shards; ``dev-00002`` of a corpus without dev stands for what was carved from ``train-00002``.

        Raises:
            ValueError: the corpus has none of the splits.
        """
        found: list[str] = []
        for split in self.splits:
            found += self._view.query_units() if split == "dev" else self.corpus.shards([split])
        if not found:
            raise ValueError(
                f"{self.corpus.location} has no {' or '.join(self.splits)} split to make instructions from; set splits of the source"
            )
        return sorted(found)

    def read(self, shard: str) -> Chosen:
        """The documents of a shard."""
        if shard.rpartition("-")[0] == "dev":
            columns = self.corpus.read_shard(self._view.corpus_shard(shard)).column_names
            of_dev, documents = frozenset[str](), tuple(from_table(self._view.queries(shard, columns)))
        else:
            of_dev, documents = self._dev, tuple(from_table(self.corpus.read_shard(shard)))
        others = [document for document in documents if document.id not in of_dev]
        kept = tuple(document for document in others if normalised_digest(document.text) not in self._held_out)
        return Chosen(kept, len(documents) - len(others), len(others) - len(kept))

    @cached_property
    def _view(self) -> View:
        return View(self.corpus, SelectSettings(queries="dev", dev_share=self.dev_share), self.seed)

    @cached_property
    def _dev(self) -> frozenset[str]:
        return frozenset(id_ for unit in self._view.query_units() for id_ in self._view.queries(unit, ["id"])["id"].to_pylist())

    @cached_property
    def _held_out(self) -> frozenset[bytes]:
        """Texts that nobody is trained on: those of test and, where dev is not trained on, of dev."""
        tables = [self.corpus.read_shard(shard, ["text"]) for shard in self.corpus.shards(TESTS)]
        if "dev" not in self.splits:
            tables += [self._view.queries(unit, ["id", "text"]) for unit in self._view.query_units()]
        return frozenset(normalised_digest(text) for table in tables for text in table["text"].to_pylist())
