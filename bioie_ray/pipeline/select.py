"""``selections/<name>@<version>``: the ranked examples of every query, and ``best_examples.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import CorpusName
from bioie_ray.corpora.tasks import Task, get_task
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.select_worker import SelectionInputs, SelectWorker
from bioie_ray.pipeline.step import ShardStep, Step
from bioie_ray.pipeline.view import View
from bioie_ray.retrieval.models import model_fingerprint
from bioie_ray.retrieval.selectors import make_selector

if TYPE_CHECKING:
    from bioie_ray.pipeline.embed import EmbedStep
    from bioie_ray.pipeline.index import IndexStep
    from bioie_ray.pipeline.train_reranker import TrainRerankerStep

FORMAT_VERSION = 1
BEST_EXAMPLES = "best_examples.json"
SHORT_QUERIES = "short_queries.json"


class Inputs(Protocol):
    """Where a selection's inputs come from (the planner)."""

    def corpus(self, recipe: Recipe, corpus: CorpusName) -> Step:
        """The prepared corpus."""
        ...

    def vectors(self, recipe: Recipe, corpus: CorpusName) -> EmbedStep:
        """Its vectors."""
        ...

    def index(self, recipe: Recipe, corpus: CorpusName) -> IndexStep | None:
        """The index over them, if search is approximate."""
        ...

    def reranker(self, recipe: Recipe) -> TrainRerankerStep:
        """The trained reranker."""
        ...


def make_select_step(planner: Inputs, recipe: Recipe) -> SelectStep:
    """The selection step with just the inputs its method needs: BM25 embeds nothing, a random draw reranks nothing.

    Raises:
        ValueError: an unknown method, or options it does not take.
    """
    selector = make_selector(recipe.select.method, recipe.select.options, recipe.seed + recipe.select.repeat)
    task = get_task(recipe.task, recipe.nlm_gene_types)
    corpus_name = task.corpus
    needs_vectors = "vectors" in selector.needs
    reranks = selector.reranks if recipe.select.rerank is None else recipe.select.rerank
    return SelectStep(
        recipe=recipe,
        task=task,
        corpus=planner.corpus(recipe, corpus_name),
        vectors=planner.vectors(recipe, corpus_name) if needs_vectors else None,
        index=planner.index(recipe, corpus_name) if needs_vectors else None,
        reranker=planner.reranker(recipe) if reranks and recipe.rerank.model is None else None,
        reranks=reranks,
    )


def method_name(recipe: Recipe, *, reranked: bool) -> str:
    """The selector's name, and that it was reranked, as tables show it."""
    return f"{recipe.select.method} + reranker" if reranked else recipe.select.method


def for_repeat(recipe: Recipe, repeat: int) -> Recipe:
    """The recipe of the draw that belongs to a repeat (from 1); the first one's is the recipe itself."""
    if repeat == 1:
        return recipe
    select = recipe.select.model_copy(update={"repeat": recipe.select.repeat + repeat - 1})
    labels = {**recipe.labels, "select.repeat": f"r{repeat:02d}"}
    return recipe.model_copy(update={"select": select, "labels": labels, "name": f"{recipe.name}-r{repeat:02d}"})


@dataclass(frozen=True)
class SelectStep(ShardStep):
    """Retrieve, rerank and choose for every query of one task."""

    recipe: Recipe
    task: Task
    corpus: Step
    vectors: EmbedStep | None
    index: IndexStep | None
    reranker: TrainRerankerStep | None
    reranks: bool

    @cached_property
    def output(self) -> Output:
        """The selection; the payload has the reranker's settings only where pairs are scored."""
        recipe = self.recipe
        payload: dict[str, Any] = {
            "kind": "selections",
            "format_version": FORMAT_VERSION,
            "task": recipe.task,
            "types": list(self.task.types or ()),
            "seed": recipe.seed,
            "settings": {**recipe.select.model_dump(mode="json"), "rerank": self.reranks},
            "corpus": self.corpus.output.fingerprint,
        }
        if self.vectors is not None:
            payload["vectors"] = self.vectors.output.fingerprint
        if self.index is not None:
            payload["index"] = self.index.output.fingerprint
        if self.reranks:
            payload["rerank"] = recipe.rerank.model_dump(mode="json", exclude={"model"})
            payload["reranker"] = self.reranker.output.fingerprint if self.reranker else model_fingerprint(str(recipe.rerank.model))
        return Output(self.corpus.output.address, f"selections/{recipe.name_of('selections')}@{recipe.version}", payload)

    @property
    def inputs(self) -> Sequence[Step]:
        """Corpus, vectors, index and reranker, as far as the method needs them."""
        return tuple(step for step in (self.corpus, self.vectors, self.index, self.reranker) if step is not None)

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"selecting examples {self.output.key.removeprefix('selections/')}"

    @cached_property
    def view(self) -> View:
        """Queries and pool."""
        return View(self.corpus.output, self.recipe.select, self.recipe.seed)

    def units(self) -> list[str]:
        """One unit a shard of queries."""
        return self.view.query_units()

    def worker(self) -> WorkerSpec:
        """Pool, selector and cross-encoder, loaded once per process."""
        recipe = self.recipe
        inputs = SelectionInputs(
            task=self.task,
            view=self.view,
            vectors=self.vectors.output if self.vectors else None,
            index=self.index.output if self.index else None,
            reranker=(self.reranker.output if self.reranker else str(recipe.rerank.model)) if self.reranks else None,
            rerank_settings=recipe.rerank,
        )
        arguments = {"inputs": inputs, "output": self.output}
        return WorkerSpec(SelectWorker, arguments, threads=recipe.rerank.threads, uses_gpu=self.reranks)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Write ``best_examples.json`` with every query in it, and ``short_queries.json`` for those with fewer than ``keep``."""
        best: dict[str, list[str]] = {}
        for unit in self.units():
            best.update({id_: [] for id_ in self.view.queries(unit, ["id"])["id"].to_pylist()})
            table = self.output.read_shard(unit, ["query_id", "example_id"])
            for query, example in zip(table["query_id"].to_pylist(), table["example_id"].to_pylist(), strict=True):
                best[query].append(example)
        if not best:
            raise ValueError(
                f"{self.what}: the {self.recipe.select.queries} split has no document, so there is nothing to select for; "
                "set select.queries to another split, or select.dev_share higher where dev is carved from train"
            )
        short = {query: len(examples) for query, examples in best.items() if len(examples) < self.recipe.select.keep}
        exclusions = self.view.exclusions()
        written = [self.output.put_file(BEST_EXAMPLES, _json(best)), self.output.put_file(SHORT_QUERIES, _json(short))]
        return {
            "task": self.recipe.task,
            "method": self.recipe.select.method,
            "reranked": self.reranks,
            "queries": {
                "total": len(best),
                "short": len(short),
                "excluded_query": exclusions.num_queries,
                "excluded_duplicate_text": exclusions.num_duplicate_texts,
            },
            "files": written,
        }


def _json(mapping: Mapping[str, Any]) -> bytes:
    return (json.dumps(mapping, ensure_ascii=False, indent=1) + "\n").encode()
