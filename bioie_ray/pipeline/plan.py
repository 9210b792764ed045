"""Which steps a recipe needs, in order. Planning reads sources and model files, but loads no model and starts no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from bioie_ray.config.recipe import JobName, Recipe
from bioie_ray.config.steps import CorpusName, TaskName
from bioie_ray.config.training import STAGE_PREFIX, STAGES, StageName, check_dev_is_not_trained_on
from bioie_ray.corpora.tasks import TASKS, get_task
from bioie_ray.pipeline.candidates import CandidatesStep
from bioie_ray.pipeline.convert import ConvertStep
from bioie_ray.pipeline.dev_questions import DevQuestions
from bioie_ray.pipeline.dmcr import DmcrStep
from bioie_ray.pipeline.embed import EmbedStep
from bioie_ray.pipeline.evaluate import EvaluateStep
from bioie_ray.pipeline.generate import GenerateStep
from bioie_ray.pipeline.held_out import HeldOut
from bioie_ray.pipeline.index import IndexStep
from bioie_ray.pipeline.instructions import InstructionsStep
from bioie_ray.pipeline.preferences import PreferencesStep
from bioie_ray.pipeline.prepare import corpus_step
from bioie_ray.pipeline.prompts import PromptsStep
from bioie_ray.pipeline.records import RecordsStep
from bioie_ray.pipeline.reference import ReferenceStep
from bioie_ray.pipeline.select import SelectStep, for_repeat, make_select_step
from bioie_ray.pipeline.step import Step
from bioie_ray.pipeline.tokens import TokensStep
from bioie_ray.pipeline.train_reranker import TrainRerankerStep
from bioie_ray.pipeline.train_stage import TrainStage
from bioie_ray.retrieval.models import ModelSource
from bioie_ray.retrieval.selectors import RANDOM_METHODS


@dataclass
class Planner:
    """Makes each step of a recipe once, however many steps or matrix cells need it."""

    _steps: dict[tuple[str, str], Step] = field(default_factory=dict)
    _asked_about_dev: dict[str, set[TaskName]] = field(default_factory=dict)

    def plan(self, recipe: Recipe, job: JobName | None = None) -> list[Step]:
        """The steps that the recipe's job (or another one of its jobs) needs, inputs before what reads them.

        Raises:
            ValueError: a source, model or setting that cannot be used.
        """
        ordered: dict[str, Step] = {}
        cells = recipe.cells()
        # Of all cells before the first is planned, and whatever the job: one training serves many, and must not know what any asks it.
        for cell in cells:
            if cell.generate.model.startswith(STAGE_PREFIX) and cell.select.queries == "dev":
                self._asked_about_dev.setdefault(cell.name_of("instructions"), set()).add(cell.task)
        for cell in cells:
            _collect(self._target(cell, job or recipe.job), ordered)
        return list(ordered.values())

    def _target(self, recipe: Recipe, job: JobName) -> Step:
        corpus = TASKS[recipe.task].corpus
        targets: dict[JobName, Callable[[], Step]] = {
            "prepare_corpora": lambda: self.corpus(recipe, corpus),
            "embed": lambda: self.vectors(recipe, corpus),
            "train_reranker": lambda: self.reranker(recipe),
            "select_examples": lambda: self.selection(recipe),
            "prepare_instructions": lambda: self.instructions(recipe),
            "train_preft": lambda: self.stage(recipe, "preft"),
            "make_preferences": lambda: self.preferences(recipe),
            "train_dpop": lambda: self.stage(recipe, "dpop"),
            "train_postft": lambda: self.stage(recipe, "postft"),
            "generate": lambda: self.generation(recipe),
            "dmcr": lambda: self.dmcr(recipe),
            "evaluate": lambda: EvaluateStep(recipe, self.dmcr(recipe)),
        }
        return targets[job]()

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

    def instructions(self, recipe: Recipe) -> InstructionsStep:
        """The conversations that a model is tuned on; no test document of the recipe's tasks, or of its sources', is in them."""
        held_out, tasks = self._held_out(recipe), _held_out_tasks(recipe)
        settings = (recipe.instructions.model_dump_json(), recipe.train.base_model, recipe.train.template, recipe.prompt.instructions)
        others = (recipe.name_of("instructions"), recipe.version, tasks, recipe.seed, recipe.select.dev_share, recipe.nlm_gene_types)
        # A source of gigabytes is hashed for its fingerprint: once, not for every cell.
        names = sorted(held_out.test), sorted(held_out.dev)
        key = ("instructions", f"{settings} {others} {names} {[_corpus_key(recipe, name) for name in [*names[0], *names[1]]]}")
        step = self._once(key, lambda: InstructionsStep(recipe, RecordsStep(recipe, held_out)))
        assert isinstance(step, InstructionsStep)
        return step

    def _held_out(self, recipe: Recipe) -> HeldOut:
        """Test documents of the tasks held out and of those that instruction data is made of; dev documents that score a model, in training or after."""
        test = self._corpora(recipe, [*_held_out_tasks(recipe), *_source_tasks(recipe)])
        questions = self._dev_questions(recipe)
        dev = self._corpora(recipe, self._asked_about_dev.get(recipe.name_of("instructions"), ()))
        return HeldOut(test, {**dev, **(questions.corpora if questions else {})}, recipe.select.dev_share, recipe.seed)

    def _corpora(self, recipe: Recipe, tasks: Iterable[TaskName]) -> dict[CorpusName, Step]:
        """The corpora of some tasks, by name."""
        return {name: self.corpus(recipe, name) for name in sorted({TASKS[task].corpus for task in tasks})}

    def stage(self, recipe: Recipe, name: StageName) -> TrainStage:
        """A training stage, on top of the one before it."""
        # What neither its name nor these depend on, it does not depend on either: a matrix over shots trains once.
        key = ("stage", f"{name} {recipe.name_of(name)} {recipe.version} {_training_key(recipe, made_pairs=name != 'preft')}")
        step = self._once(key, lambda: self._make_stage(recipe, name))
        assert isinstance(step, TrainStage)
        return step

    def _make_stage(self, recipe: Recipe, name: StageName) -> TrainStage:
        first = ModelSource(recipe.train.base_model)
        before = self.stage(recipe, STAGES[STAGES.index(name) - 1]) if name != "preft" else None
        base = ModelSource(f"{STAGE_PREFIX}{before.stage}", before.output) if before else first
        if name == "dpop" and before is not None:
            tokens = TokensStep(recipe, name, first, self.preferences(recipe))
            reference = ReferenceStep(recipe, tokens, base, before)
            return TrainStage(recipe, name, base, before, tokens, reference, self._dev_questions(recipe))
        tokens = TokensStep(recipe, name, first, self.instructions(recipe))
        return TrainStage(recipe, name, base, before, tokens, None, self._dev_questions(recipe))

    def preferences(self, recipe: Recipe) -> PreferencesStep:
        """Pairs of a right and a wrong answer: made by the tuned model, or given."""
        key = ("preferences", f"{recipe.name_of('preferences')} {recipe.version} {_training_key(recipe, made_pairs=True)}")
        step = self._once(key, lambda: self._make_preferences(recipe))
        assert isinstance(step, PreferencesStep)
        return step

    def _make_preferences(self, recipe: Recipe) -> PreferencesStep:
        if recipe.preferences.path is not None:
            return PreferencesStep(recipe, None, self._held_out(recipe))
        tasks = tuple(dict.fromkeys(recipe.preferences.tasks)) or (recipe.task,)
        corpora = self._corpora(recipe, tasks)
        tuned = self.stage(recipe, "preft")
        held_out = self._held_out(recipe)
        candidates = CandidatesStep(recipe, tasks, corpora, ModelSource(f"{STAGE_PREFIX}preft", tuned.output), tuned)
        return PreferencesStep(recipe, candidates, replace(held_out, test={**held_out.test, **corpora}))

    def _dev_questions(self, recipe: Recipe) -> DevQuestions | None:
        if recipe.train.score_every_steps is None:
            return None
        tasks = tuple(dict.fromkeys(_source_tasks(recipe) or [recipe.task]))
        return DevQuestions(tasks, self._corpora(recipe, tasks))

    def prompts(self, recipe: Recipe) -> PromptsStep:
        """The prompts of one cell, with as many selections as its repeats need: a random method draws anew for each."""
        task = get_task(recipe.task, recipe.nlm_gene_types)
        selections: list[SelectStep] = []
        if recipe.prompt.num_examples:
            num_draws = recipe.generate.repeats if recipe.select.method in RANDOM_METHODS else 1
            selections = [self.selection(for_repeat(recipe, repeat)) for repeat in range(1, num_draws + 1)]
        return PromptsStep(recipe, task, self.corpus(recipe, task.corpus), tuple(selections), self._tuned(recipe))

    def generation(self, recipe: Recipe) -> GenerateStep:
        """A model's answers."""
        return GenerateStep(recipe, self.prompts(recipe))

    def _tuned(self, recipe: Recipe) -> TrainStage | None:
        """The stage that is asked, where the model is one of the recipe's own.

        Raises:
            ValueError: it may have been trained on the very documents that it is asked about.
        """
        name = next((stage for stage in STAGES if recipe.generate.model == f"{STAGE_PREFIX}{stage}"), None)
        if name is None:
            return None
        corpus = TASKS[recipe.task].corpus
        if corpus not in self._held_out(recipe).test:
            raise ValueError(
                f"generate.model={recipe.generate.model} is asked about {recipe.task}, but test documents of {corpus} are not held out of what it is "
                f"trained on; set instructions.held_out=[{', '.join([*_held_out_tasks(recipe), recipe.task])}]"
            )
        if recipe.select.queries == "dev":
            check_dev_is_not_trained_on(recipe.instructions, recipe.preferences)
        return self.stage(recipe, name)

    def dmcr(self, recipe: Recipe) -> DmcrStep:
        """What the answers are worth, with both evaluators' conversions where the recipe has evaluators."""
        generation = self.generation(recipe)
        evaluators = zip("ab", recipe.dmcr.evaluators, strict=False)
        return DmcrStep(recipe, generation, tuple(ConvertStep(recipe, generation, letter, settings) for letter, settings in evaluators))

    def _once(self, key: tuple[str, str], make: object) -> Step:
        if key not in self._steps:
            assert callable(make)
            self._steps[key] = make()
        return self._steps[key]


def _held_out_tasks(recipe: Recipe) -> tuple[TaskName, ...]:
    return recipe.instructions.held_out or (recipe.task,)


def _source_tasks(recipe: Recipe) -> list[TaskName]:
    """The tasks that instruction data is made of."""
    return [task for source in recipe.instructions.sources if source.kind == "tasks" for task in source.tasks or (recipe.task,)]


def _corpus_key(recipe: Recipe, corpus: CorpusName) -> str:
    return f"{corpus} {recipe.source} {recipe.corpus_version} {recipe.prepare.model_dump_json()}"


def _vectors_key(recipe: Recipe, corpus: CorpusName) -> str:
    return f"{_corpus_key(recipe, corpus)} {recipe.embed.model_dump_json()}"


def _training_key(recipe: Recipe, *, made_pairs: bool) -> str:
    """What training and its pairs depend on beside what their names have: two values of it are drift, which is told, not one model for both."""
    generate, scored = recipe.generate, recipe.train.score_every_steps is not None
    engine = {"engine", "dtype", "threads", "batch_size", "batch_tokens"} if made_pairs and recipe.preferences.path is None else set()
    asked = generate.model_dump_json(include=engine | ({"max_new_tokens"} if scored else set()))
    return f"{recipe.prompt.instructions} {recipe.select.dev_share} {asked}"


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
