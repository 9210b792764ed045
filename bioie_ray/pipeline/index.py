"""``indexes/<vectors>-<kind>@<version>``: one approximate FAISS index for every shard of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import IndexSettings
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.embed import EmbedStep, vector_array
from bioie_ray.pipeline.step import ShardStep, Step

FORMAT_VERSION = 1


@dataclass(frozen=True)
class IndexStep(ShardStep):
    """Builds the indexes; exact search (``flat``) has no such step."""

    vectors: EmbedStep
    recipe: Recipe

    @cached_property
    def output(self) -> Output:
        """One row a shard: the serialised index."""
        payload = {
            "kind": "indexes",
            "format_version": FORMAT_VERSION,
            "settings": self.recipe.index.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "vectors": self.vectors.output.fingerprint,
        }
        name, _, version = self.vectors.output.key.removeprefix("vectors/").rpartition("@")
        return Output(self.vectors.output.address, f"indexes/{name}-{self.recipe.index.kind}@{version}", payload)

    @property
    def inputs(self) -> Sequence[Step]:
        """The vectors."""
        return (self.vectors,)

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"indexing {self.vectors.output.key.removeprefix('vectors/')}"

    def units(self) -> list[str]:
        """One unit a shard of vectors."""
        return self.vectors.output.shards()

    def worker(self) -> WorkerSpec:
        """FAISS with one thread."""
        return WorkerSpec(
            IndexWorker,
            {"settings": self.recipe.index, "seed": self.recipe.seed, "vectors": self.vectors.output, "output": self.output},
        )

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Nothing beyond the counts."""
        return {"index": self.recipe.index.kind}


class IndexWorker:
    """Vector shard in, index shard out."""

    def __init__(self, settings: IndexSettings, seed: int, vectors: Output, output: Output) -> None:
        self._settings = settings
        self._seed = seed
        self._vectors = vectors
        self._output = output

    def process(self, unit: str) -> None:
        """Build one shard's index; a shard without vectors has an empty one."""
        from bioie_ray.retrieval.index import build_index

        vectors = vector_array(self._vectors.read_shard(unit, ["vector"])["vector"])
        index = build_index(vectors, self._settings, self._seed) if len(vectors) else b""
        table = pa.table({"index": pa.array([index], pa.large_binary())})
        self._output.commit(unit, table, {"vectors": len(vectors)})
