"""``scores/<name>@<version>``: how good the answers are, as they stand, undressed, and after review.

A person's decisions change scores, not what they were made from: scores with decisions are another version of the same name,
``<version>.d<number>-<digest>``, and the ones before stay. A decision about another answer than there is now (the output was made
again beside them) is not applied; the record counts those, and the run says it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.record import sum_of
from bioie_ray.config.recipe import Recipe
from bioie_ray.corpora.document import from_table
from bioie_ray.corpora.tasks import Answer, Task
from bioie_ray.dmcr.decision_log import DecisionLog, digest_of
from bioie_ray.dmcr.decisions import Decision, answer_digest, load_answers, resolve, stale
from bioie_ray.evaluation.score_results import ZERO_SHOT, ReviewCounts
from bioie_ray.evaluation.table import SCORES_SCHEMA, score_document, summarise
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.dmcr import DmcrStep
from bioie_ray.pipeline.generate import model_name
from bioie_ray.pipeline.prompts import split_unit
from bioie_ray.pipeline.select import method_name
from bioie_ray.pipeline.step import ShardStep, Step
from bioie_ray.pipeline.view import View

FORMAT_VERSION = 2
_DECIDED: Final = re.compile(r"\.d\d+-[0-9a-f]+$")


@dataclass(frozen=True)
class EvaluateStep(ShardStep):
    """Score the answers of one run of the grid, all repeats of it."""

    recipe: Recipe
    dmcr: DmcrStep

    @cached_property
    def decided(self) -> tuple[Decision, ...]:
        """People's decisions when the step was planned. Those of a day's run are counted by the next: what is scored must be what is named."""
        return tuple(DecisionLog(self.dmcr.output).all())

    @cached_property
    def output(self) -> Output:
        """The scores."""
        recipe = self.recipe
        decisions = digest_of(self.decided)
        payload = {
            "kind": "scores",
            "format_version": FORMAT_VERSION,
            "task": recipe.task,
            "dmcr": self.dmcr.output.fingerprint,
            "decisions": decisions,
            "settings": recipe.evaluate.model_dump(mode="json"),
        }
        return Output(self.dmcr.output.address, decided_version(self.undecided_key, decisions), payload)

    @property
    def undecided_key(self) -> str:
        """The key of the scores in which no person's decision counts."""
        return f"scores/{self.recipe.name_of('scores')}@{self.recipe.version}"

    @property
    def task(self) -> Task:
        """What was asked."""
        return self.dmcr.generation.prompts.task

    @property
    def inputs(self) -> Sequence[Step]:
        """Corpus and verdicts."""
        return (self.dmcr.corpus, self.dmcr)

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"scoring {self.output.key.removeprefix('scores/')}"

    def units(self) -> list[str]:
        """One unit a shard of verdicts."""
        return self.dmcr.output.shards()

    def worker(self) -> WorkerSpec:
        """No model."""
        arguments = {
            "task": self.task,
            "view": self.dmcr.generation.prompts.view,
            "dmcr": self.dmcr.output,
            "output": self.output,
            "decisions": self.decided,
        }
        return WorkerSpec(EvaluateWorker, arguments)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Precision, recall and F1 of raw, cleaned and corrected answers, by repeat and over repeats, with intervals."""
        table = pa.concat_tables([self.output.read_shard(unit) for unit in sorted(markers)])
        recipe = self.recipe
        num_decided, num_stale = sum_of(markers, "decided"), sum_of(markers, "stale_decisions")
        num_since = len({decision.id for decision in DecisionLog(self.dmcr.output).all()} - {decision.id for decision in self.decided})
        since = f"{num_since} decisions were made in {self.dmcr.output.location} since this run began; run it again, it then counts them"
        warning = (
            f"{num_stale} answers are others than those that people decided on; these decisions are not counted: bioie review "
            f"{self.dmcr.output.location}"
        )
        return {
            "task": recipe.task,
            "model": model_name(recipe.generate.model),
            "method": self.method,
            "num_examples": recipe.prompt.num_examples,
            **self._asked(),
            "decisions": num_decided,
            "stale_decisions": num_stale,
            "summary": summarise(table, self.task, recipe.evaluate),
            **({"warnings": told} if (told := [*([warning] if num_stale else []), *([since] if num_since else [])]) else {}),
        }

    def _asked(self) -> dict[str, Any]:
        """What the scores cannot show: examples that did not fit into prompts, answers that are none because a query did not, and the review."""
        generation = self.dmcr.generation
        prompts = generation.prompts.output.record()["counts"]
        mean = prompts["examples"] / prompts["prompts"] if prompts["prompts"] else 0.0
        reviewed = self.dmcr.output.record()["counts"]
        return {
            "mean_examples": round(mean, 3),
            "not_asked": generation.output.record()["counts"]["not_asked"],
            "review": {field.name: reviewed[field.name] for field in fields(ReviewCounts)},
        }

    @property
    def method(self) -> str:
        """How examples were chosen, as tables show it."""
        selections = self.dmcr.generation.prompts.selections
        return method_name(self.recipe, reranked=selections[0].reranks) if selections else ZERO_SHOT


def decided_version(version: str, decisions: str) -> str:
    """The version of scores (or a key that ends in it) in which people's decisions count, told by their digest; without any, the recipe's."""
    digest, _, number = decisions.rpartition("-")
    return f"{version}.d{number}-{digest[:6]}" if digest else version


def undecided(key: str) -> str:
    """The inverse: a version, or a key, without people's decisions."""
    return _DECIDED.sub("", key)


class EvaluateWorker:
    """Verdict shard in, scores of each of its answers out."""

    def __init__(self, task: Task, view: View, dmcr: Output, output: Output, decisions: Sequence[Decision]) -> None:
        self._task = task
        self._view = view
        self._dmcr = dmcr
        self._output = output
        self._decisions = decisions

    def process(self, unit: str) -> None:
        """Score one shard."""
        documents = {
            document.id: document for document in from_table(self._view.corpus.read_shard(self._view.corpus_shard(split_unit(unit)[0])))
        }
        rows: list[dict[str, Any]] = []
        judged = {(row["document_id"], row["repeat"]): row for row in self._dmcr.read_shard(unit).to_pylist()}
        mine = [decision for decision in self._decisions if decision.key in judged]
        digests = {decision.key: answer_digest(judged[decision.key]["answer"]) for decision in mine}
        all_decided = resolve(mine, digests)
        for key, row in judged.items():
            decided = all_decided.get(key)
            corrected: Sequence[Answer] | None = decided if decided is not None else load_answers(row["corrected"])
            rows += score_document(
                self._task,
                documents[row["document_id"]],
                row["repeat"],
                load_answers(row["raw"]),
                load_answers(row["cleaned"]),
                corrected,
                malformed=row["status"] == "malformed",
                undecided=row["verdict"] == "differ" and decided is None,
            )
        counts = {"scored": len(rows) // 3, "decided": len(all_decided), "stale_decisions": len(stale(mine, digests))}
        self._output.commit(unit, pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), counts)
