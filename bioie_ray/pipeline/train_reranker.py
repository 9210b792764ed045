"""``rerankers/<name>@<version>``: a cross-encoder trained on pairs labelled by shared gold answers."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from bioie_ray.artifacts.files import put_folder
from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import CorpusName, RerankSettings, TaskName, TrainRerankerSettings
from bioie_ray.corpora.tasks import get_task
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.embed import EmbedStep
from bioie_ray.pipeline.reranker_data import TrainingCorpus, held_out_rankings, training_data
from bioie_ray.pipeline.step import Step, address_of
from bioie_ray.retrieval.models import model_fingerprint

FORMAT_VERSION = 2
_UNIT = "training"
_CHECKPOINTS = "_checkpoints"
_NOTE_EVERY_S = 10.0
_SHARD_SCHEMA = pa.schema([("step", pa.int32()), ("loss", pa.float64())])


@dataclass(frozen=True)
class TrainRerankerStep:
    """Trains one reranker for one task or several; the unit of work is the training, the unit of resume a checkpoint."""

    tasks: tuple[TaskName, ...]
    corpora: Mapping[CorpusName, Step]
    vectors: Mapping[CorpusName, EmbedStep]
    recipe: Recipe

    @cached_property
    def output(self) -> Output:
        """The model folder ``model/`` and the loss trace."""
        settings = self.recipe.train_reranker
        payload = {
            "kind": "rerankers",
            "format_version": FORMAT_VERSION,
            "settings": settings.model_dump(mode="json", exclude={"name", "tasks", "base_model", "checkpoint_every_steps"}),
            "tasks": {name: list(get_task(name, self.recipe.nlm_gene_types).types or ()) for name in self.tasks},
            "dev_share": self.recipe.select.dev_share,
            "seed": self.recipe.seed,
            "base_model": model_fingerprint(settings.base_model),
            "corpora": {name: step.output.fingerprint for name, step in self.corpora.items()},
            "vectors": {name: step.output.fingerprint for name, step in self.vectors.items()},
        }
        name = settings.name or self.tasks[0]
        return Output(address_of(self.recipe), f"rerankers/{name}@{self.recipe.version}", payload)

    @property
    def inputs(self) -> Sequence[Step]:
        """Corpora and vectors of all tasks."""
        return (*self.corpora.values(), *self.vectors.values())

    @property
    def takes_notes(self) -> bool:
        """A training is one unit of minutes or hours."""
        return True

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"training reranker {self.output.key.removeprefix('rerankers/')}"

    def units(self) -> list[str]:
        """The training is one unit."""
        return [_UNIT]

    def is_done(self, unit: str, markers: Mapping[str, Marker]) -> bool:
        """The loss trace is committed after the model's files."""
        return unit in markers

    def worker(self) -> WorkerSpec:
        """One process that trains."""
        tasks = [get_task(name, self.recipe.nlm_gene_types) for name in self.tasks]
        corpora = [TrainingCorpus(task, self.corpora[task.corpus].output, self.vectors[task.corpus].output) for task in tasks]
        return WorkerSpec(
            TrainRerankerWorker,
            {
                "settings": self.recipe.train_reranker,
                "rerank": self.recipe.rerank,
                "corpora": corpora,
                "dev_share": self.recipe.select.dev_share,
                "seed": self.recipe.seed,
                "output": self.output,
            },
            threads=self.recipe.train_reranker.threads,
            uses_gpu=True,
        )

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """The model's files, and how it ranks the held-out queries; checkpoints go, they have served."""
        store, key = self.output.store, self.output.key
        summary: dict[str, Any] = json.loads(store.read(f"{key}/training.json"))
        for checkpoint in store.keys(f"{key}/{_CHECKPOINTS}"):
            store.delete(checkpoint)
        worse = worse_than_cosine(summary["held_out"])
        return {"tasks": list(self.tasks), "base_model": self.recipe.train_reranker.base_model, **summary, "warnings": worse}


def worse_than_cosine(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each task on which the held-out queries say that reranking does harm."""
    ndcg = {(row["task"], row["method"]): float(row["ndcg"]["mean"]) for row in rows}
    return [
        f"on held-out queries of {task} the reranker orders worse than the cosine (mean nDCG {ndcg[task, 'reranked']:.3f} against "
        f"{ndcg[task, 'cosine']:.3f}); train on more pairs, or set select.rerank=false"
        for task, method in ndcg
        if method == "reranked" and ndcg[task, "reranked"] < ndcg[task, "cosine"]
    ]


class TrainRerankerWorker:
    """Pairs, training, and the measurement on held-out queries."""

    def __init__(
        self,
        settings: TrainRerankerSettings,
        rerank: RerankSettings,
        corpora: Sequence[TrainingCorpus],
        dev_share: float,
        seed: int,
        output: Output,
    ) -> None:
        self._settings = settings
        self._rerank = rerank
        self._corpora = corpora
        self._dev_share = dev_share
        self._seed = seed
        self._output = output

    def process(self, unit: str) -> None:
        """Train, or go on from the newest checkpoint; then write files, summary and at last the loss trace as the shard."""
        from bioie_ray.retrieval.train_reranker import Progress, train

        data = training_data(self._corpora, self._settings, self._dev_share, self._seed)
        self._output.note(
            f"{len(data.pairs)} training pairs of {data.num_queries_with_pairs} queries, {data.num_held_out} queries held out"
        )
        with tempfile.TemporaryDirectory(prefix="bioie-reranker-") as scratch:
            mirror = _Checkpoints(self._output, Path(scratch))

            noted, num_pairs = time.monotonic(), len(data.pairs) * self._settings.epochs

            def report(progress: Progress) -> None:
                nonlocal noted
                if progress.step % self._settings.checkpoint_every_steps == 0:
                    mirror.push()
                if time.monotonic() - noted >= _NOTE_EVERY_S:
                    noted = time.monotonic()
                    left = (1 - progress.step / progress.num_steps) * num_pairs / progress.pairs_per_s
                    self._output.note(
                        f"step {progress.step}/{progress.num_steps}, loss {progress.loss:.4f}, {progress.pairs_per_s:.1f} pairs/s, {left:.0f} s left"
                    )

            model = Path(scratch) / "model"
            result = train(self._settings, data.texts, data.pairs, data.labels, model, self._seed, mirror.folder, report)
            files = put_folder(self._output, "model", model)
            rankings = held_out_rankings(self._corpora, data, self._rerank, self._settings, str(model), self._seed, self._dev_share)
        summary = {
            "training": {
                "queries": data.num_queries,
                "queries_with_pairs": data.num_queries_with_pairs,
                "held_out_queries": data.num_held_out,
                "pairs": result.num_pairs,
                "pairs_truncated": result.num_truncated,
                "steps": result.num_steps,
                "train_s": round(result.seconds, 3),
            },
            "held_out": rankings,
            "files": files,
        }
        self._output.put_file("training.json", json.dumps(summary, indent=1).encode())
        trace = pa.Table.from_pylist([{"step": step, "loss": loss} for step, loss in result.losses], schema=_SHARD_SCHEMA)
        self._output.commit(unit, trace, {"pairs": result.num_pairs, "pairs_truncated": result.num_truncated})


class _Checkpoints:
    """The folder that training checkpoints live in: inside a local store, else a copy that is pushed to the store."""

    def __init__(self, output: Output, scratch: Path) -> None:
        self._output = output
        self._prefix = f"{output.key}/{_CHECKPOINTS}"
        self._local = output.address.is_local
        self.folder = output.address.folder / self._prefix if self._local else scratch / "checkpoints"
        if not self._local:
            self._pull()

    def push(self) -> None:
        """Put new checkpoints into the store, each by one put, then drop the older ones there."""
        if self._local:
            return
        here = {path.name: path for path in self.folder.glob("step-*")}
        there = {key.rpartition("/")[2] for key in self._output.store.keys(self._prefix)}
        for name in sorted(here.keys() - there):
            self._output.store.write(f"{self._prefix}/{name}", here[name].read_bytes())
        for name in sorted(there - here.keys()):
            self._output.store.delete(f"{self._prefix}/{name}")

    def _pull(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for key in self._output.store.keys(self._prefix):
            (self.folder / key.rpartition("/")[2]).write_bytes(self._output.store.read(key))
