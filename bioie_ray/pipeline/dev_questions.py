"""The dev documents that a model in training is scored on: a seeded draw of each task's, asked without examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import CorpusName, TaskName
from bioie_ray.corpora.draws import in_drawn_order
from bioie_ray.corpora.tasks import get_task, gold
from bioie_ray.dmcr.reading import RULES_VERSION
from bioie_ray.pipeline.step import Step
from bioie_ray.pipeline.task_documents import TaskDocuments
from bioie_ray.prompting.instructions import load_instructions

if TYPE_CHECKING:
    from bioie_ray.training.scoring import ScoringPlan


@dataclass(frozen=True)
class DevQuestions:
    """Of which tasks, from which corpora."""

    tasks: tuple[TaskName, ...]
    corpora: Mapping[CorpusName, Step]

    def payload(self, recipe: Recipe) -> dict[str, Any]:
        """What of them a training depends on, beside its seed and how many there are: the best weights by these answers are its result."""
        return {
            "tasks": {name: list(get_task(name, recipe.nlm_gene_types).types or ()) for name in self.tasks},
            "dev_share": recipe.select.dev_share,
            "max_new_tokens": recipe.generate.max_new_tokens,
            "corpora": {name: step.output.fingerprint for name, step in self.corpora.items()},
            "instructions": load_instructions(recipe.prompt.instructions).digest,
            "rules": RULES_VERSION,
        }

    def plan(self, recipe: Recipe) -> ScoringPlan:
        """The questions, drawn and written out.

        Raises:
            ValueError: a task has no dev document.
        """
        from bioie_ray.evaluation.gold_view import distinct
        from bioie_ray.training.scoring import Question, ScoringPlan

        instructions = load_instructions(recipe.prompt.instructions)
        questions: list[Question] = []
        for name in self.tasks:
            task = get_task(name, recipe.nlm_gene_types)
            dev = TaskDocuments(self.corpora[task.corpus].output, ("dev",), recipe.select.dev_share, recipe.seed)
            documents = {document.id: document for shard in dev.shards() for document in dev.read(shard).documents}
            if not documents:
                raise ValueError(
                    f"{name} has no dev document to score a model on; set select.dev_share higher, or leave train.score_every_steps out"
                )
            drawn = [documents[id_] for id_ in in_drawn_order(list(documents), "dev", recipe.seed)]
            questions += [
                Question(
                    f"{name}/{document.id}",
                    instructions.question(task, document.text),
                    task.kind,
                    distinct(gold(task, document).answers),
                )
                for document in drawn[: recipe.train.score_documents]
            ]
        return ScoringPlan(tuple(questions), recipe.generate.max_new_tokens)
