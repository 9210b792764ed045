"""``tokens-<stage>/<name>@<version>``: a stage's data as token ids, packed once, so that ranks read rows by number and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.record import sum_of
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.training import DpopSettings, SftSettings, StageName
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.step import ShardStep, Step, address_of
from bioie_ray.prompting.tokenizer import context_of
from bioie_ray.retrieval.models import ModelSource, tokenizer_fingerprint
from bioie_ray.training.chat_template import template_digest

FORMAT_VERSION = 2
# Why a record is left out, and what to do about it.
_LEFT_OUT = {
    "too_long": "set {stage}.max_length higher",
    "prompt_too_long": "set {stage}.max_prompt_tokens higher",
    "beyond_context": "take a train.base_model that takes longer texts (max_position_embeddings of its config.json, model_max_length of its tokenizer_config.json; the smaller one holds)",
    "same_tokens": "take other pairs",
    "refused_by_template": "take another train.template",
}


@dataclass(frozen=True)
class TokensStep(ShardStep):
    """Tokenises and packs. A unit is a shard of instructions or preferences."""

    recipe: Recipe
    stage: StageName
    base: ModelSource
    source: Step

    @cached_property
    def output(self) -> Output:
        """The rows; the payload covers data, tokenizer, template and lengths."""
        settings = self.settings
        context = context_of(self.recipe.train.base_model)
        include = {"max_length", "packing"} | ({"max_prompt_tokens"} if self.stage == "dpop" else set())
        payload = {
            "kind": f"tokens-{self.stage}",
            "format_version": FORMAT_VERSION,
            "source": self.source.output.fingerprint,
            "tokenizer": tokenizer_fingerprint(self.recipe.train.base_model),
            "template": template_digest(self.recipe.train.template),
            "settings": settings.model_dump(mode="json", include=include),
            # Only where it leaves something out: else models with one tokenizer share their tokens.
            **({} if context is None or context >= settings.max_length else {"context": context}),
        }
        return Output(address_of(self.recipe), f"tokens-{self.stage}/{self.recipe.name_of(self.stage)}@{self.recipe.version}", payload)

    @property
    def settings(self) -> SftSettings | DpopSettings:
        """The stage's section of the recipe."""
        settings: SftSettings | DpopSettings = getattr(self.recipe, self.stage)
        return settings

    @property
    def inputs(self) -> Sequence[Step]:
        """The data. The model's tokenizer is the base model's in every stage, so no stage is waited for."""
        return (self.source,)

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"tokenising for {self.stage} {self.output.key.partition('/')[2]}"

    def units(self) -> list[str]:
        """One unit a shard of the data."""
        return self.source.output.shards()

    def worker(self) -> WorkerSpec:
        """The tokenizer, loaded once per process."""
        return WorkerSpec(
            TokensWorker,
            {
                "settings": self.settings,
                "template": self.recipe.train.template,
                "base": self.base,
                "source": self.source.output,
                "output": self.output,
            },
        )

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """What was left out.

        Raises:
            ValueError: nothing is left to train on; what was written is given up.
        """
        left_out = {name: sum_of(markers, name) for name in _LEFT_OUT}
        told = ", ".join(f"{name.replace('_', ' ')}: {num}" for name, num in left_out.items() if num)
        if not any(marker.rows for marker in markers.values()):
            self.output.discard()
            ways_out = [advice.format(stage=self.stage) for name, advice in _LEFT_OUT.items() if left_out[name]]
            raise ValueError(
                f"{self.what}: no record is left to train on ({told or 'there were none'}); {', or '.join([*ways_out, 'take other data'])}"
            )
        return {"stage": self.stage, "left_out": left_out, **({"warnings": [f"left out: {told}"]} if told else {})}


class TokensWorker:
    """A shard of data in, a shard of rows out."""

    def __init__(self, settings: SftSettings | DpopSettings, template: str, base: ModelSource, source: Output, output: Output) -> None:
        from bioie_ray.training.tokens import load_chat_tokenizer

        self._settings = settings
        self._source = source
        self._output = output
        self._chat = load_chat_tokenizer(str(base.folder()), template)

    def process(self, unit: str) -> None:
        """Tokenise and pack one shard."""
        from bioie_ray.training.rows import pair_rows, sft_rows

        records = self._source.read_shard(unit).to_pylist()
        if isinstance(self._settings, DpopSettings):
            table, counts = pair_rows(records, self._chat, self._settings)
        else:
            table, counts = sft_rows(records, self._chat, self._settings)
        self._output.commit(unit, table, counts)
