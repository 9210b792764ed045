"""``reference/<name>@<version>``: what DPOP's reference model thinks of both answers of each pair, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.training import DpopSettings, TrainSettings
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.step import ShardStep, Step
from bioie_ray.pipeline.tokens import TokensStep
from bioie_ray.retrieval.models import ModelSource

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ReferenceStep(ShardStep):
    """Scores pairs by the model that DPOP begins with. A unit is a shard of pairs."""

    recipe: Recipe
    tokens: TokensStep
    base: ModelSource
    stage_before: Step

    @cached_property
    def output(self) -> Output:
        """The numbers; the payload covers pairs, model and precision."""
        payload = {
            "kind": "reference",
            "format_version": FORMAT_VERSION,
            "tokens": self.tokens.output.fingerprint,
            "model": self.base.fingerprint(),
            "weights": "nf4" if self.recipe.dpop.method == "qlora" else "whole",
            "train": self.recipe.train.model_dump(mode="json", include={"dtype", "attention", "threads"}),
        }
        return Output(self.tokens.output.address, f"reference/{self.recipe.name_of('dpop')}@{self.recipe.version}", payload)

    @property
    def inputs(self) -> Sequence[Step]:
        """Pairs and model."""
        return (self.tokens, self.stage_before)

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"reference log-probabilities {self.output.key.removeprefix('reference/')}"

    def units(self) -> list[str]:
        """One unit a shard of pairs."""
        return self.tokens.output.shards()

    def worker(self) -> WorkerSpec:
        """The model, loaded once per process."""
        arguments = {
            "settings": self.recipe.dpop,
            "train": self.recipe.train,
            "base": self.base,
            "tokens": self.tokens.output,
            "output": self.output,
        }
        return WorkerSpec(ReferenceWorker, arguments, threads=self.recipe.train.threads, uses_gpu=True)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Nothing beyond the counts."""
        return {"model": self.base.ref}


class ReferenceWorker:
    """A shard of pairs in, a shard of numbers out."""

    def __init__(self, settings: DpopSettings, train: TrainSettings, base: ModelSource, tokens: Output, output: Output) -> None:
        from bioie_ray.training.reference import load_reference
        from bioie_ray.training.tokens import load_chat_tokenizer

        folder = base.folder()
        self._train = train
        self._tokens = tokens
        self._output = output
        self._model = load_reference(folder, settings, train)
        self._pad_id = load_chat_tokenizer(str(folder), train.template).end_of_turn

    def process(self, unit: str) -> None:
        """Score one shard of pairs."""
        from bioie_ray.training.reference import score_pairs

        table = score_pairs(self._model, self._tokens.read_shard(unit), self._pad_id, self._train)
        self._output.commit(unit, table, {"pairs": table.num_rows})
