"""Which steps a recipe needs, in order. Planning reads sources and model files, but loads no model and starts no Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from bioie_ray.config.recipe import JobName, Recipe
from bioie_ray.config.steps import CorpusName, TaskName
from bioie_ray.corpora.tasks import TASKS
from bioie_ray.pipeline.embed import EmbedStep
from bioie_ray.pipeline.index import IndexStep
from bioie_ray.pipeline.prepare import corpus_step
from bioie_ray.pipeline.select import SelectStep, make_select_step
from bioie_ray.pipeline.step import Step
from bioie_ray.pipeline.train_reranker import TrainRerankerStep


@dataclass
class Planner:
    """Makes each step of a recipe once, however many steps or matrix cells need it."""

    _steps: dict[tuple[str, str], Step] = field(default_factory=dict)

    def plan(self, recipe: Recipe, job: JobName | None = None) -> list[Step]:
        """The steps that the recipe's job (or another one of its jobs) needs, inputs before what reads them.

        Raises:
            ValueError: a source, model or setting that cannot be used.
        """
        ordered: dict[str, Step] = {}
        for cell in recipe.cells():
            for target in self._targets(cell, job or recipe.job):
                _collect(target, ordered)
        return list(ordered.values())

    def _targets(self, recipe: Recipe, job: JobName) -> list[Step]:
        corpus = TASKS[recipe.task].corpus
        if job == "prepare_corpora":
            return [self.corpus(recipe, corpus)]
        if job == "embed":
            return [self.vectors(recipe, corpus)]
        if job == "train_reranker":
            return [self.reranker(recipe)]
        return [self.selection(recipe)]

    def corpus(self, recipe: Recipe, corpus: CorpusName) -> Step:
        """The prepared corpus."""
        return self._once(("corpus", _corpus_key(recipe, corpus)), lambda: corpus_step(recipe, corpus))

    def vectors(self, recipe: Recipe, corpus: CorpusName) -> EmbedStep:
        """Its vectors."""
        key = ("vectors", _vectors_key(recipe, corpus))
        step = self._once(key, lambda: EmbedStep(self.corpus(recipe, corpus), recipe))
        assert isinstance(step, EmbedStep)
        return step

    def index(self, recipe: Recipe, corpus: CorpusName) -> IndexStep | None:
        """The approximate index over them; ``None`` for exact search, which needs none."""
        if recipe.index.kind == "flat":
            return None
        key = ("index", f"{_vectors_key(recipe, corpus)} {recipe.index.model_dump_json()} {recipe.seed}")
        step = self._once(key, lambda: IndexStep(self.vectors(recipe, corpus), recipe))
        assert isinstance(step, IndexStep)
        return step

    def reranker(self, recipe: Recipe) -> TrainRerankerStep:
        """The reranker that the recipe trains."""
        tasks: tuple[TaskName, ...] = recipe.train_reranker.tasks or (recipe.task,)
        names = tuple(dict.fromkeys(TASKS[task].corpus for task in tasks))
        settings = (recipe.train_reranker.model_dump_json(), recipe.version, recipe.seed, recipe.select.dev_share, recipe.nlm_gene_types)
        key = ("reranker", f"{tasks} {[_vectors_key(recipe, name) for name in names]} {settings}")

        def make() -> Step:
            corpora = {name: self.corpus(recipe, name) for name in names}
            vectors = {name: self.vectors(recipe, name) for name in names}
            return TrainRerankerStep(tasks, corpora, vectors, recipe)

        step = self._once(key, make)
        assert isinstance(step, TrainRerankerStep)
        return step

    def selection(self, recipe: Recipe) -> SelectStep:
        """The selection of one task by one method."""
        return make_select_step(self, recipe)

    def _once(self, key: tuple[str, str], make: object) -> Step:
        if key not in self._steps:
            assert callable(make)
            self._steps[key] = make()
        return self._steps[key]


def _corpus_key(recipe: Recipe, corpus: CorpusName) -> str:
    return f"{corpus} {recipe.source} {recipe.corpus_version} {recipe.prepare.model_dump_json()}"


def _vectors_key(recipe: Recipe, corpus: CorpusName) -> str:
    return f"{_corpus_key(recipe, corpus)} {recipe.embed.model_dump_json()}"


def _collect(step: Step, ordered: dict[str, Step]) -> None:
    for needed in step.inputs:
        _collect(needed, ordered)
    twin = ordered.setdefault(step.output.key, step)
    if twin.output.fingerprint != step.output.fingerprint:
        way_out = (
            "give the values of the matrix a label: each, so that their outputs have names of their own"
            if step.output.key.startswith("selections/")
            else "run them as two recipes, with a version of their own each (--set version=..., corpus_version= for corpora and vectors)"
        )
        raise ValueError(f"two cells of the recipe would both write {step.output.key}, with different settings; {way_out}")
