"""``vectors/<corpus>-<model>@<version>``: a unit vector for every document text, shard by shard of the corpus."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import EmbedSettings
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.step import ShardStep, Step, address_of
from bioie_ray.retrieval.batching import is_out_of_memory
from bioie_ray.retrieval.models import model_fingerprint

if TYPE_CHECKING:
    import numpy as np

    from bioie_ray.retrieval.encoder import Encoder

FORMAT_VERSION = 1


@dataclass(frozen=True)
class EmbedStep(ShardStep):
    """Embeds the texts of a corpus; with ``embed.base`` only those that the base does not hold."""

    corpus: Step
    recipe: Recipe

    @cached_property
    def output(self) -> Output:
        """The vectors; the payload covers texts, model weights and everything that shapes a batch."""
        payload: dict[str, Any] = {
            "kind": "vectors",
            "format_version": FORMAT_VERSION,
            "settings": self.recipe.embed.model_dump(mode="json", exclude={"model", "base"}),
            "model": model_fingerprint(self.recipe.embed.model),
            "corpus": self.corpus.output.fingerprint,
        }
        if self.base is not None:
            payload["base"] = self.base.fingerprint
        return Output(self.corpus.output.address, self._key(self.recipe.corpus_version), payload)

    @cached_property
    def base(self) -> Output | None:
        """The finished vectors that texts are taken over from.

        Raises:
            ValueError: they were made by another model or other settings.
        """
        version = self.recipe.embed.base
        if version is None:
            return None
        output = Output(address_of(self.recipe), self._key(version))
        payload = output.record()["payload"]
        ours = {
            "settings": self.recipe.embed.model_dump(mode="json", exclude={"model", "base"}),
            "model": model_fingerprint(self.recipe.embed.model),
        }
        changed = [name for name, value in ours.items() if payload[name] != value]
        if changed:
            raise ValueError(
                f"embed.base={version}: {output.location} was made with other {' and '.join(changed)}, its vectors cannot be "
                "mixed with new ones; leave embed.base out to embed everything anew"
            )
        return Output(output.address, output.key, payload)

    def _key(self, version: str) -> str:
        corpus = self.corpus.output.key.removeprefix("corpora/").rpartition("@")[0]
        model = re.sub(r"[^a-z0-9]+", "-", self.recipe.embed.model.rstrip("/").rpartition("/")[2].lower()).strip("-")
        return f"vectors/{corpus}-{model.removeprefix('offline-')}@{version}"

    @property
    def inputs(self) -> Sequence[Step]:
        """The corpus."""
        return (self.corpus,)

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"embedding {self.corpus.output.key.removeprefix('corpora/')}"

    def units(self) -> list[str]:
        """One unit a corpus shard."""
        return self.corpus.output.shards()

    def worker(self) -> WorkerSpec:
        """An encoder, loaded once per process."""
        return WorkerSpec(
            EmbedWorker,
            {"settings": self.recipe.embed, "corpus": self.corpus.output, "output": self.output, "base": self.base},
            threads=self.recipe.embed.threads,
            uses_gpu=True,
        )

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Nothing beyond the counts: texts embedded, taken over, and cut at ``max_seq_length``."""
        return {"model": self.recipe.embed.model}


class EmbedWorker:
    """Corpus shard in, vector shard out."""

    def __init__(self, settings: EmbedSettings, corpus: Output, output: Output, base: Output | None) -> None:
        self._settings = settings
        self._corpus = corpus
        self._output = output
        self._base = _Vectors(base) if base is not None else None
        self._loaded: Encoder | None = None

    def process(self, unit: str) -> None:
        """Embed one shard. Rows keep the corpus's order; a text that cannot be embedded goes to quarantine."""
        table = self._corpus.read_shard(unit, ["id", "text"])
        ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
        digests = [text_digest(text) for text in texts]
        rows: dict[int, dict[str, Any]] = {}
        quarantined = []
        fresh = []
        for i, text in enumerate(texts):
            known = self._base.get(digests[i]) if self._base is not None else None
            if known is not None:
                rows[i] = known
            elif text.strip():
                fresh.append(i)
            else:
                quarantined.append(_reject(unit, ids[i], "the text is empty", text))
        num_reused = len(rows)
        for i, outcome in zip(fresh, self._embed([texts[i] for i in fresh]), strict=True):
            if isinstance(outcome, str):
                quarantined.append(_reject(unit, ids[i], outcome, texts[i]))
            else:
                rows[i] = outcome
        kept = [{"id": ids[i], "text_sha256": digests[i], **rows[i]} for i in sorted(rows)]
        counts = {
            "embedded": len(rows) - num_reused,
            "reused": num_reused,
            "truncated": sum(row["truncated"] for row in kept),
        }
        self._output.commit(unit, _table(kept), counts, quarantined)

    def _embed(self, texts: Sequence[str]) -> list[dict[str, Any] | str]:
        """A row for each text, or the reason why it has none: one bad text does not take its batch along."""
        if not texts:
            return []
        try:
            return self._encode(texts)
        except Exception as error:
            if len(texts) == 1 and not is_out_of_memory(error):
                return [f"the model cannot embed it: {type(error).__name__}: {error}"]
            if is_out_of_memory(error):
                raise
        return [outcome for text in texts for outcome in self._embed([text])]

    def _encode(self, texts: Sequence[str]) -> list[dict[str, Any] | str]:
        encoded = self._encoder.encode(texts)
        return [
            {"num_tokens": int(n), "truncated": bool(cut), "vector": vector}
            for n, cut, vector in zip(encoded.num_tokens, encoded.truncated, encoded.vectors, strict=True)
        ]

    @property
    def _encoder(self) -> Encoder:
        """Loaded at the first text that needs it: a rerun in which all is taken over loads no model."""
        if self._loaded is None:
            from bioie_ray.retrieval.encoder import Encoder

            self._loaded = Encoder(self._settings)
        return self._loaded


class _Vectors:
    """Rows of a finished vectors output by text digest; holds one shard at a time."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._where: dict[str, tuple[str, int]] = {}
        for shard in output.shards():
            digests = output.read_shard(shard, ["text_sha256"])["text_sha256"].to_pylist()
            for i, digest in enumerate(digests):
                self._where.setdefault(digest, (shard, i))
        self._shard = ""
        self._table: pa.Table | None = None

    def get(self, digest: str) -> dict[str, Any] | None:
        where = self._where.get(digest)
        if where is None:
            return None
        shard, i = where
        if shard != self._shard or self._table is None:
            self._shard, self._table = shard, self._output.read_shard(shard, ["num_tokens", "truncated", "vector"])
        row: dict[str, Any] = self._table.slice(i, 1).to_pylist()[0]
        return row


def text_digest(text: str) -> str:
    """sha256 of the text, by which a changed text is seen and an unchanged one is not embedded again."""
    return hashlib.sha256(text.encode()).hexdigest()


def vector_array(column: pa.ChunkedArray) -> np.ndarray:
    """A vector column as float32 ``[n, dim]``."""
    import numpy as np

    combined = column.combine_chunks()
    return np.asarray(combined.flatten(), dtype=np.float32).reshape(len(combined), combined.type.list_size)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    dimensions = len(rows[0]["vector"]) if rows else 1
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("text_sha256", pa.string()),
            ("num_tokens", pa.int32()),
            ("truncated", pa.bool_()),
            ("vector", pa.list_(pa.float32(), dimensions)),
        ]
    )
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def _reject(shard: str, document_id: str, reason: str, text: str) -> dict[str, Any]:
    return {"shard": shard, "id": document_id, "reason": reason, "raw": text[:2_000]}
