"""``generations/<name>@<version>``: the answers of a model to every prompt, each repeat with seeds of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.record import sum_of
from bioie_ray.config.generation import GenerateSettings
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.training import STAGE_PREFIX
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.generation.base import UNANSWERED, Completion, Request, Sampling
from bioie_ray.pipeline.answering import affinity, answer, finish_asking, model_identity, sample_seed, tokens_of
from bioie_ray.pipeline.prompts import PromptsStep, draw_unit, split_unit
from bioie_ray.pipeline.step import ShardStep, Step
from bioie_ray.prompting.prompt import Message
from bioie_ray.retrieval.models import ModelSource

FORMAT_VERSION = 2
# A query that has no prompt (too long by itself), or that a server does not take, has a row all the same: it counts as answered by nothing.
NOT_ASKED = "not_asked"
_WHY: Final = {"too_long_for_server": "are longer than the server takes", "refused": "are refused by the server's content policy"}
_WAYS_OUT: Final = {
    "too_long_for_server": "make prompts shorter (prompt.max_tokens with generate.tokenizer)",
    "refused": "ask another server or model",
}
GENERATION_SCHEMA = pa.schema(
    [
        ("document_id", pa.string()),
        ("repeat", pa.int32()),
        ("seed", pa.int64()),
        ("answer", pa.string()),
        ("finish", pa.string()),
        ("num_prompt_tokens", pa.int32()),
        ("num_answer_tokens", pa.int32()),
        ("num_examples", pa.int32()),
    ]
)


@dataclass(frozen=True)
class GenerateStep(ShardStep):
    """Ask a model. A unit is a shard of prompts and a repeat."""

    recipe: Recipe
    prompts: PromptsStep

    @cached_property
    def output(self) -> Output:
        """The answers; the payload covers prompts, model, engine, sampling and seeds."""
        settings = self.recipe.generate
        sampling = {"temperature", "top_p", "max_new_tokens", "repeats", "stop_at_list", "structured"}
        payload = {
            "kind": "generations",
            "format_version": FORMAT_VERSION,
            "prompts": self.prompts.output.fingerprint,
            "model": model_identity(settings, self.prompts.tuned.output if self.prompts.tuned else None),
            "sampling": settings.model_dump(mode="json", include=sampling),
            "seed": self.recipe.seed,
        }
        key = f"generations/{self.recipe.name_of('generations')}@{self.recipe.version}"
        return Output(self.prompts.output.address, key, payload)

    @property
    def inputs(self) -> Sequence[Step]:
        """The prompts, and the stage that is asked."""
        return (self.prompts, *([self.prompts.tuned] if self.prompts.tuned else []))

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"asking {model_name(self.recipe.generate.model)} {self.output.key.removeprefix('generations/')}"

    def units(self) -> list[str]:
        """One unit a repeat and shard of queries."""
        shards = self.prompts.view.query_units()
        return [draw_unit(shard, repeat) for repeat in range(1, self.recipe.generate.repeats + 1) for shard in shards]

    def worker(self) -> WorkerSpec:
        """The engine, loaded once per process."""
        arguments = {
            "settings": self.recipe.generate,
            "model": ModelSource(self.recipe.generate.model, self.prompts.tuned.output) if self.prompts.tuned else None,
            "kind": self.prompts.task.kind,
            "seed": self.recipe.seed,
            "prompts": self.prompts.output,
            "num_draws": self.prompts.num_draws,
            "output": self.output,
        }
        settings = self.recipe.generate
        return WorkerSpec(GenerateWorker, arguments, threads=settings.threads, affinity=affinity(settings), uses_gpu=settings.uses_gpu)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """What was asked of whom, and what it cost.

        Raises:
            ValueError: a server took none of the queries. What was written is given up then, unless it was paid for.
        """
        settings = self.recipe.generate
        counts = {name: sum_of(markers, name) for name in ("answers", *_WHY)}
        told = [f"{counts[name]} queries {why}, which counts as no answer" for name, why in _WHY.items() if counts[name]]
        if told and not counts["answers"]:
            advice = " and ".join(_WAYS_OUT[name] for name in _WHY if counts[name])
            paid = any(tokens_of(markers))
            if not paid:
                self.output.discard()
            kept = f", and delete {self.output.location}: it stays, because it was paid for and is not to be again unasked" if paid else ""
            raise ValueError(f"{self.what}: there is no answer at all; {' and '.join(told)}; {advice}{kept}")
        return {
            "task": self.recipe.task,
            "repeats": settings.repeats,
            **finish_asking(self.output, settings, markers),
            **({"warnings": told} if told else {}),
        }


class GenerateWorker:
    """Prompt shard in, answer shard out."""

    def __init__(
        self,
        settings: GenerateSettings,
        model: ModelSource | None,
        kind: Any,
        seed: int,
        prompts: Output,
        num_draws: int,
        output: Output,
    ) -> None:
        from bioie_ray.generation.engines import load_engine

        if model is not None:
            settings = settings.model_copy(update={"model": str(model.folder())})
        self._settings = settings
        self._sends_seed = settings.engine != "openai" or settings.endpoint.sends_seed
        self._prompts = prompts
        self._num_draws = num_draws
        self._seed = seed
        self._output = output
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_new_tokens=settings.max_new_tokens,
            stop_at=kind if settings.stop_at_list else None,
            structured=kind if settings.structured else None,
        )
        self._engine = load_engine(settings, sampling)

    def process(self, unit: str) -> None:
        """Answer one shard of prompts for one repeat."""
        shard, repeat = split_unit(unit)
        prompts = self._prompts.read_shard(draw_unit(shard, min(repeat, self._num_draws))).to_pylist()
        requests = [
            Request(
                row["document_id"],
                row["text"],
                _messages(row["messages"]),
                sample_seed(self._settings, self._seed, row["document_id"], repeat),
                may_go_unanswered=True,
            )
            for row in prompts
            if row["problem"] is None
        ]
        done = answer(self._engine, requests, self._output, unit)
        seeds = {request.id: request.seed for request in requests} if self._sends_seed else {}
        rows = [_row(row, repeat, done.get(row["document_id"]), seeds.get(row["document_id"])) for row in prompts]
        num_not_asked = sum(row["finish"] == NOT_ASKED for row in rows)
        counts = {
            "answers": len(rows) - num_not_asked,
            "not_asked": num_not_asked,
            "too_long_for_server": sum(completion.finish == "too_long" for completion in done.values()),
            "refused": sum(completion.finish == "refused" for completion in done.values()),
            "prompt_tokens": sum(completion.num_prompt_tokens for completion in done.values()),
            "answer_tokens": sum(completion.num_answer_tokens for completion in done.values()),
            "cut_off": sum(completion.finish == "length" for completion in done.values()),
        }
        self._output.commit(unit, pa.Table.from_pylist(rows, schema=GENERATION_SCHEMA), counts)
        self._output.drop_parts(unit)


def model_name(ref: str) -> str:
    """A model's name for people: the last part of a path or id, without ``offline:`` or ``stage:``."""
    return ref.removeprefix("offline:").removeprefix(STAGE_PREFIX).rstrip("/").rpartition("/")[2]


def _messages(text: str) -> tuple[Message, ...]:
    return tuple(Message(turn["role"], turn["content"]) for turn in json.loads(text))


def _row(prompt: Mapping[str, Any], repeat: int, completion: Completion | None, seed: int | None) -> dict[str, Any]:
    answered = completion is not None and completion.finish not in UNANSWERED
    return {
        "document_id": prompt["document_id"],
        "repeat": repeat,
        "seed": seed,
        "answer": completion.text if completion else "",
        "finish": completion.finish if completion and answered else NOT_ASKED,
        "num_prompt_tokens": completion.num_prompt_tokens if completion else 0,
        "num_answer_tokens": completion.num_answer_tokens if completion else 0,
        "num_examples": len(prompt["example_ids"]),
    }
