"""``models-<stage>/<name>@<version>``: one training stage of DFPO: its adapter, the merged model, and the numbers of every step."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.config.recipe import JobName, Recipe
from bioie_ray.config.training import DpopSettings, SftSettings, StageName
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.dev_questions import DevQuestions
from bioie_ray.pipeline.reference import ReferenceStep
from bioie_ray.pipeline.step import Step, address_of
from bioie_ray.pipeline.tokens import TokensStep
from bioie_ray.retrieval.models import ModelSource

FORMAT_VERSION = 2
UNIT = "training"
# How a training is run and watched, and not what comes of it.
_NOT_IN_FINGERPRINT = {
    "base_model",
    "template",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "max_retries",
    "planned_tokens_per_s",
    "report_to",
}


@dataclass(frozen=True)
class TrainStage:
    """Trains; the unit of work is the training, the unit of resume a checkpoint."""

    recipe: Recipe
    stage: StageName
    base: ModelSource
    stage_before: Step | None
    tokens: TokensStep
    reference: ReferenceStep | None
    dev: DevQuestions | None

    @cached_property
    def output(self) -> Output:
        """Adapter ``adapter/``, merged model ``model/``, ``metrics.jsonl``, and the trace as a shard.

        The number of ranks is not in the payload: it moves a result by rounding, and by which numbers dropout draws; the record has it.
        """
        unused = set[str]() if self.dev else {"score_every_steps", "score_documents", "patience"}
        train = self.recipe.train.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT | unused)
        payload = {
            "kind": f"models-{self.stage}",
            "format_version": FORMAT_VERSION,
            "settings": self.settings.model_dump(mode="json"),
            "train": train,
            "base_model": self.base.fingerprint(),
            "tokens": self.tokens.output.fingerprint,
            "reference": self.reference.output.fingerprint if self.reference else None,
            "dev": self.dev.payload(self.recipe) if self.dev else None,
            "seed": self.recipe.seed,
        }
        return Output(address_of(self.recipe), f"models-{self.stage}/{self.recipe.name_of(self.stage)}@{self.recipe.version}", payload)

    @property
    def settings(self) -> SftSettings | DpopSettings:
        """The stage's section of the recipe."""
        return self.tokens.settings

    @property
    def inputs(self) -> Sequence[Step]:
        """Data, the stage before, and the corpora that dev questions come from."""
        others = (self.stage_before, self.reference, *(self.dev.corpora.values() if self.dev else ()))
        return (self.tokens, *(step for step in others if step is not None))

    @property
    def takes_notes(self) -> bool:
        """A training is one unit of minutes or days."""
        return True

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"training {self.stage} {self.output.key.partition('/')[2]}"

    def units(self) -> list[str]:
        """The training is one unit."""
        return [UNIT]

    def is_done(self, unit: str, markers: Mapping[str, Marker]) -> bool:
        """The trace is committed after the model's files."""
        return unit in markers

    def worker(self) -> WorkerSpec:
        """What starts the ranks."""
        return WorkerSpec(TrainStageWorker, {"step": self, "cluster": self.recipe.cluster}, in_driver=True)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """The model's files and how the training went; checkpoints go, they have served."""
        from bioie_ray.training.checkpoints import CheckpointStore
        from bioie_ray.training.results import SUMMARY, Best
        from bioie_ray.training.starts import told

        summary: dict[str, Any] = json.loads(self.output.store.read(f"{self.output.key}/{SUMMARY}"))
        CheckpointStore(self.output).drop()
        Best(self.output).drop()
        warnings = []
        if len(summary.get("starts", ())) > 1:
            warnings.append(f"ranks: {told(summary['starts'])}; that is not the same to the last bit as one number of them throughout")
        return {"stage": self.stage, "base_model": self.base.ref, **summary, **({"warnings": warnings} if warnings else {})}


def estimates(recipe: Recipe, job: JobName, steps: Sequence[TrainStage]) -> list[str]:
    """What the stages of a recipe will need, for a dry run: exact steps where the data is tokenised already.

    Raises:
        ModelError: the model is neither here nor known.
        ValueError: it has no layer that a stage's adapter could go on.
    """
    names, lines = recipe.stages(job), list[str]()
    if not names:
        return lines
    from bioie_ray.training.estimate import check_modules, describe, estimate, shape_of  # with torch, which other dry runs do without

    for name in names:
        settings: SftSettings | DpopSettings = getattr(recipe, name)
        rows = tokens = None
        step = next((step for step in steps if step.stage == name), None)
        if step is not None and step.tokens.output.is_finished():
            counts = step.tokens.output.record()["counts"]
            rows, tokens = counts["rows"], counts["tokens"]
        shape = shape_of(recipe.train.base_model, settings.lora)
        check_modules(name, recipe.train.base_model, shape, settings)
        ranks = recipe.cluster.ranks
        found = estimate(shape, settings, recipe.train, ranks, rows, tokens)
        lines += describe(
            name, found, settings, ranks, recipe.train.planned_tokens_per_s, _most_pairs(recipe) if name == "dpop" else _most_rows(recipe)
        )
    return lines


def _most_rows(recipe: Recipe) -> int | None:
    """How many records the sources can give at most, where each says so."""
    bounds = [source.max_records and math.ceil(source.max_records * source.weight) for source in recipe.instructions.sources]
    return sum(bound for bound in bounds if bound) if all(bounds) else None


def _most_pairs(recipe: Recipe) -> int | None:
    """How many pairs there can be at most, where they are made of a limited number of documents."""
    settings = recipe.preferences
    if settings.path is not None or settings.max_documents is None:
        return None
    return settings.max_documents * max(1, len(settings.tasks)) * settings.pairs_per_document


class TrainStageWorker:
    """Trains by ranks of its own."""

    def __init__(self, step: TrainStage, cluster: ClusterSettings) -> None:
        self._step = step
        self._cluster = cluster

    def process(self, unit: str) -> None:
        """Train, or go on from the newest checkpoint."""
        from bioie_ray.training.launch import launch
        from bioie_ray.training.stage import Stage

        step = self._step
        launch(
            Stage(
                name=step.stage,
                settings=step.settings,
                train=step.recipe.train,
                base=step.base,
                tokens=step.tokens.output,
                reference=step.reference.output if step.reference else None,
                scoring=step.dev.plan(step.recipe) if step.dev else None,
                seed=step.recipe.seed,
                output=step.output,
            ),
            self._cluster,
            step.output.note,
        )
