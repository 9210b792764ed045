"""What a model must not have been trained on: test documents, and the dev documents that it is scored by, in training or after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bioie_ray.artifacts.output import Output
from bioie_ray.config.steps import CorpusName
from bioie_ray.pipeline.step import Step
from bioie_ray.pipeline.task_documents import TaskDocuments
from bioie_ray.pipeline.view import TESTS


@dataclass(frozen=True)
class HeldOutTexts:
    """Reads them where they are looked for; travels to actors."""

    test: tuple[Output, ...]
    dev: tuple[TaskDocuments, ...] = ()

    def read(self) -> list[tuple[str, str]]:
        """(corpus, text) of every such document, by corpus and shard; ``<corpus> dev`` for those of dev."""
        found = []
        for output in self.test:
            corpus = str(output.record()["corpus"])
            for shard in output.shards(TESTS):
                found += [(corpus, text) for text in output.read_shard(shard, ["text"])["text"].to_pylist()]
        for documents in self.dev:
            corpus = f"{documents.corpus.record()['corpus']} dev"
            found += [(corpus, document.text) for shard in documents.shards() for document in documents.read(shard).documents]
        return found


@dataclass(frozen=True)
class HeldOut:
    """The test documents of some corpora, and the dev documents of those that score a model."""

    test: Mapping[CorpusName, Step]
    dev: Mapping[CorpusName, Step]
    dev_share: float
    seed: int

    @property
    def steps(self) -> Sequence[Step]:
        """The corpora."""
        return tuple({**self.test, **self.dev}.values())

    def payload(self, test: str) -> dict[str, Any]:
        """What of it an output depends on; ``test`` is the name under which that has its test corpora."""
        found: dict[str, Any] = {test: {name: step.output.fingerprint for name, step in self.test.items()}}
        if self.dev:
            dev = {name: step.output.fingerprint for name, step in self.dev.items()}
            found["held_out_dev"] = {"corpora": dev, "dev_share": self.dev_share, "seed": self.seed}
        return found

    @property
    def texts(self) -> HeldOutTexts:
        """Their texts."""
        dev = (TaskDocuments(self.dev[name].output, ("dev",), self.dev_share, self.seed) for name in sorted(self.dev))
        return HeldOutTexts(tuple(self.test[name].output for name in sorted(self.test)), tuple(dev))
