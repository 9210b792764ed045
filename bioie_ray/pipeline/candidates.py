"""``candidates/<name>@<version>``: what the tuned model answers about the documents it was tuned on, several times each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.generation import GenerateSettings
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import CorpusName, TaskName
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.draws import in_drawn_order
from bioie_ray.corpora.tasks import get_task
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.answering import answer, finish_asking, model_identity, sample_seed
from bioie_ray.pipeline.step import ShardStep, Step, address_of
from bioie_ray.pipeline.task_documents import TaskDocuments
from bioie_ray.prompting.instructions import Instructions, load_instructions
from bioie_ray.retrieval.models import ModelSource

FORMAT_VERSION = 2
CANDIDATE_SCHEMA = pa.schema(
    [("task", pa.string()), ("document_id", pa.string()), ("sample", pa.int32()), ("answer", pa.string()), ("finish", pa.string())]
)


@dataclass(frozen=True)
class CandidatesStep(ShardStep):
    """Asks. A unit is a task and a shard of its corpus."""

    recipe: Recipe
    tasks: tuple[TaskName, ...]
    corpora: Mapping[CorpusName, Step]
    model: ModelSource
    stage_before: Step

    @cached_property
    def output(self) -> Output:
        """The answers; the payload covers documents, model, question and sampling."""
        settings = self.recipe.preferences
        sampling = {"splits", "samples", "temperature", "top_p", "max_new_tokens", "max_documents"}
        payload = {
            "kind": "candidates",
            "format_version": FORMAT_VERSION,
            "tasks": {name: list(get_task(name, self.recipe.nlm_gene_types).types or ()) for name in self.tasks},
            "corpora": {name: step.output.fingerprint for name, step in self.corpora.items()},
            "dev_share": self.recipe.select.dev_share,
            "model": model_identity(self.engine_settings, self.model.made_by),
            "sampling": settings.model_dump(mode="json", include=sampling),
            "instructions": self.instructions.digest,
            "seed": self.recipe.seed,
        }
        return Output(address_of(self.recipe), f"candidates/{self.recipe.name_of('preferences')}@{self.recipe.version}", payload)

    @cached_property
    def instructions(self) -> Instructions:
        """The wording, as in generation."""
        return load_instructions(self.recipe.prompt.instructions)

    @property
    def engine_settings(self) -> GenerateSettings:
        """How the model is run: as the recipe's generation, where that is done by an engine of ours."""
        generate = self.recipe.generate
        engine = "transformers" if generate.engine == "openai" else generate.engine
        return GenerateSettings(
            engine=engine,
            model=self.model.ref,
            dtype=generate.dtype,
            threads=generate.threads,
            batch_size=generate.batch_size,
            batch_tokens=generate.batch_tokens,
        )

    @property
    def inputs(self) -> Sequence[Step]:
        """Documents and model."""
        return (self.stage_before, *self.corpora.values())

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"asking the tuned model for wrong answers {self.output.key.removeprefix('candidates/')}"

    def documents(self, task: TaskName) -> TaskDocuments:
        """The documents of a task that a model may be trained on."""
        corpus = self.corpora[get_task(task).corpus].output
        return TaskDocuments(corpus, self.recipe.preferences.splits, self.recipe.select.dev_share, self.recipe.seed)

    def units(self) -> list[str]:
        """One unit a task and shard of documents."""
        return [f"{name}.{shard}" for name in self.tasks for shard in self.documents(name).shards()]

    def worker(self) -> WorkerSpec:
        """The model, loaded once per process."""
        arguments = {
            "recipe": self.recipe,
            "settings": self.engine_settings,
            "model": self.model,
            "instructions": self.instructions,
            "documents": {name: self.documents(name) for name in self.tasks},
            "output": self.output,
        }
        threads, uses_gpu = self.recipe.generate.threads, self.engine_settings.uses_gpu
        return WorkerSpec(CandidatesWorker, arguments, threads=threads, affinity=self.model.ref, uses_gpu=uses_gpu)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Whom it asked."""
        return {"tasks": list(self.tasks), **finish_asking(self.output, self.engine_settings, markers)}


class CandidatesWorker:
    """A shard of documents in, a shard of answers out."""

    def __init__(
        self,
        recipe: Recipe,
        settings: GenerateSettings,
        model: ModelSource,
        instructions: Instructions,
        documents: Mapping[TaskName, TaskDocuments],
        output: Output,
    ) -> None:
        self._recipe = recipe
        self._settings = settings.model_copy(update={"model": str(model.folder())})
        self._instructions = instructions
        self._documents = documents
        self._output = output
        self._drawn: dict[TaskName, frozenset[str]] = {}

    def process(self, unit: str) -> None:
        """Ask about the documents of one shard."""
        from bioie_ray.generation.base import Request, Sampling
        from bioie_ray.generation.engines import load_engine
        from bioie_ray.prompting.prompt import Message
        from bioie_ray.prompting.tokenizer import load_tokenizer

        name, shard = split_unit(unit)
        task = get_task(name, self._recipe.nlm_gene_types)
        wanted = self._recipe.preferences
        documents = [document for document in self._documents[name].read(shard).documents if self._is_asked(name, document)]
        tokenizer = load_tokenizer(self._settings.model)
        room = None if tokenizer.context is None else tokenizer.context - wanted.max_new_tokens
        requests = []
        for document in documents:
            turns = (Message("user", self._instructions.question(task, document.text)),)
            text = tokenizer.render(turns)
            if room is None or tokenizer.count(text) <= room:
                requests += [
                    Request(
                        f"{document.id}#{sample}",
                        text,
                        turns,
                        sample_seed(self._settings, self._recipe.seed, f"{name}/{document.id}", sample),
                    )
                    for sample in range(1, wanted.samples + 1)
                ]
        sampling = Sampling(wanted.temperature, wanted.top_p, wanted.max_new_tokens, stop_at=task.kind)
        done = answer(load_engine(self._settings, sampling), requests, self._output, unit)
        rows = [
            {
                "task": name,
                "document_id": document.id,
                "sample": sample,
                "answer": done[f"{document.id}#{sample}"].text,
                "finish": done[f"{document.id}#{sample}"].finish,
            }
            for document in documents
            for sample in range(1, wanted.samples + 1)
            if f"{document.id}#{sample}" in done
        ]
        counts = {
            "documents": len(documents),
            "answers": len(rows),
            "too_long": len(documents) - len(requests) // wanted.samples,
            "prompt_tokens": sum(completion.num_prompt_tokens for completion in done.values()),
            "answer_tokens": sum(completion.num_answer_tokens for completion in done.values()),
        }
        self._output.commit(unit, pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA), counts)
        self._output.drop_parts(unit)

    def _is_asked(self, name: TaskName, document: Document) -> bool:
        """Whether a document is among ``max_documents`` of its task: a draw over all shards, the same in each of them."""
        most = self._recipe.preferences.max_documents
        if most is None:
            return True
        if name not in self._drawn:
            source = self._documents[name]
            ids = [found.id for shard in source.shards() for found in source.read(shard).documents]
            self._drawn[name] = frozenset(in_drawn_order(ids, "preferences", self._recipe.seed)[:most])
        return document.id in self._drawn[name]


def split_unit(unit: str) -> tuple[TaskName, str]:
    """Task and shard of a unit."""
    name, _, shard = unit.partition(".")
    return get_task(name).key, shard
