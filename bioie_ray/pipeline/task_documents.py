"""The documents of a corpus that a model may be trained on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from bioie_ray.artifacts.output import Output
from bioie_ray.config.steps import SelectSettings, Split
from bioie_ray.corpora.document import Document, from_table
from bioie_ray.pipeline.view import View


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
        split = shard.rpartition("-")[0]
        if split == "dev":
            columns = self.corpus.read_shard(self._view.corpus_shard(shard)).column_names
            return Chosen(tuple(from_table(self._view.queries(shard, columns))))
        documents = tuple(from_table(self.corpus.read_shard(shard)))
        kept = tuple(d for d in documents if d.id not in self._dev and d.id not in self._same_text)
        num_dev = sum(d.id in self._dev for d in documents)
        return Chosen(kept, num_dev, len(documents) - len(kept) - num_dev)

    @property
    def _view(self) -> View:
        return View(self.corpus, SelectSettings(queries="dev", dev_share=self.dev_share), self.seed)

    @cached_property
    def _dev(self) -> frozenset[str]:
        return frozenset(id_ for unit in self._view.query_units() for id_ in self._view.queries(unit, ["id"])["id"].to_pylist())

    @cached_property
    def _same_text(self) -> frozenset[str]:
        """Documents of train that say the same as one of dev or test; where dev is trained on, that is no reason to leave one out."""
        return frozenset() if "dev" in self.splits else self._view.exclusions().ids - self._dev


def held_out_texts(corpora: Collection[Output]) -> list[tuple[str, str]]:
    """(corpus, text) of every test document, by corpus and shard."""
    found = []
    for output in sorted(corpora, key=lambda output: output.key):
        corpus = str(output.record()["corpus"])
        for shard in output.shards(["test", "test_ner"]):
            found += [(corpus, text) for text in output.read_shard(shard, ["text"])["text"].to_pylist()]
    return found
