"""``conversions-a/`` and ``conversions-b/<name>@<version>``: what an evaluator makes of every answer that does not parse.

An answer of white space only is malformed too, but there is nothing in it to convert: nobody is asked, and it is worth an empty list
(``pipeline/dmcr.py``). One that is too long for the evaluator has a row without a conversion, and waits for a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.record import sum_of
from bioie_ray.config.generation import ModelSettings
from bioie_ray.config.recipe import Recipe
from bioie_ray.dmcr.conversion import CONVERSION_VERSION, conversion_messages, conversion_text
from bioie_ray.dmcr.reading import RULES_VERSION, read_answer
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.generation.base import UNANSWERED, Completion, Request, Sampling
from bioie_ray.pipeline.answering import affinity, answer, finish_asking, model_identity
from bioie_ray.pipeline.generate import NOT_ASKED, GenerateStep, model_name
from bioie_ray.pipeline.step import ShardStep, Step
from bioie_ray.prompting.tokenizer import load_tokenizer
from bioie_ray.retrieval.models import model_fingerprint

FORMAT_VERSION = 3
CONVERSION_SCHEMA = pa.schema(
    [
        ("document_id", pa.string()),
        ("repeat", pa.int32()),
        ("conversion", pa.string()),
        ("finish", pa.string()),
        ("num_prompt_tokens", pa.int32()),
        ("num_answer_tokens", pa.int32()),
    ]
)


@dataclass(frozen=True)
class ConvertStep(ShardStep):
    """One of the two evaluators over the malformed answers of a generation."""

    recipe: Recipe
    generation: GenerateStep
    letter: str
    settings: ModelSettings

    @cached_property
    def output(self) -> Output:
        """The conversions; the payload covers answers, evaluator, and the prompt's and the rules' versions."""
        kind = f"conversions-{self.letter}"
        payload: dict[str, Any] = {
            "kind": kind,
            "format_version": FORMAT_VERSION,
            "generations": self.generation.output.fingerprint,
            "model": model_identity(self.settings),
            "max_new_tokens": self.recipe.dmcr.max_new_tokens,
            "prompt": CONVERSION_VERSION,
            "rules": RULES_VERSION,
        }
        if self.settings.engine == "openai" and self.settings.tokenizer:  # it says which answers are too long to be converted
            payload["tokenizer"] = model_fingerprint(self.settings.tokenizer)
        return Output(self.generation.output.address, f"{kind}/{self.recipe.name_of('dmcr')}@{self.recipe.version}", payload)

    @property
    def inputs(self) -> Sequence[Step]:
        """The answers."""
        return (self.generation,)

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"converting by {model_name(self.settings.model)} {self.output.key.partition('/')[2]}"

    def units(self) -> list[str]:
        """One unit a shard of answers."""
        return self.generation.output.shards()

    def worker(self) -> WorkerSpec:
        """The engine, loaded at the first malformed answer."""
        arguments = {
            "settings": self.settings,
            "kind": self.generation.prompts.task.kind,
            "max_new_tokens": self.recipe.dmcr.max_new_tokens,
            "generation": self.generation.output,
            "output": self.output,
        }
        settings = self.settings
        return WorkerSpec(ConvertWorker, arguments, threads=settings.threads, affinity=affinity(settings), uses_gpu=settings.uses_gpu)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Who converted, and what it cost."""
        name = model_name(self.settings.model)
        why = {"too_long": f"are too long for {name}", "refused": f"are refused by the content policy of {name}'s server"}
        counts = {each: sum_of(markers, each) for each in why}
        warnings = [f"{counts[each]} answers {said}, and stay without a conversion by it" for each, said in why.items() if counts[each]]
        return {
            "task": self.recipe.task,
            **finish_asking(self.output, self.settings, markers),
            **({"warnings": warnings} if warnings else {}),
        }


class ConvertWorker:
    """Answer shard in, conversions of its malformed answers out."""

    def __init__(self, settings: ModelSettings, kind: Any, max_new_tokens: int, generation: Output, output: Output) -> None:
        self._settings = settings
        self._kind = kind
        self._sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens, stop_at=kind)
        self._generation = generation
        self._output = output

    def process(self, unit: str) -> None:
        """Convert the malformed answers of one shard, but those that are empty; one that is too long stays without a conversion."""
        rows = self._generation.read_shard(unit, ["document_id", "repeat", "answer", "finish"]).to_pylist()
        asked = [row for row in rows if row["finish"] != NOT_ASKED]
        malformed = [(row, reading) for row in asked if (reading := read_answer(row["answer"], self._kind)).status == "malformed"]
        to_convert = {row["document_id"]: row for row, reading in malformed if reading.reason != "empty"}
        requests = [request for id_, row in to_convert.items() if (request := self._request(id_, row["answer"])) is not None]
        done: dict[str, Completion] = {}
        if requests:
            from bioie_ray.generation.engines import load_engine

            done = answer(load_engine(self._settings, self._sampling), requests, self._output, unit)
        found = [_row(row, done.get(id_)) for id_, row in sorted(to_convert.items())]
        num_too_long, num_refused = (sum(row["finish"] == why for row in found) for why in ("too_long", "refused"))
        counts = {
            "answers": len(rows),
            "malformed": len(malformed),
            "empty": len(malformed) - len(to_convert),
            "too_long": num_too_long,
            "refused": num_refused,
            "conversions": len(found) - num_too_long - num_refused,
            "prompt_tokens": sum(row["num_prompt_tokens"] for row in found),
            "answer_tokens": sum(row["num_answer_tokens"] for row in found),
        }
        self._output.commit(unit, pa.Table.from_pylist(found, schema=CONVERSION_SCHEMA), counts)
        self._output.drop_parts(unit)

    def _request(self, id_: str, text: str) -> Request | None:
        messages = conversion_messages(text, self._kind)
        tokenizer = load_tokenizer(self._settings.counts_by) if self._settings.counts_by else None
        if tokenizer is None:
            return Request(id_, None, messages, seed=0, may_go_unanswered=True)
        prompt = tokenizer.render(messages) if tokenizer.has_template else tokenizer.begin(conversion_text(text, self._kind))
        if tokenizer.context is not None and tokenizer.count(prompt) + self._sampling.max_new_tokens > tokenizer.context:
            return None
        return Request(id_, prompt, messages, seed=0, may_go_unanswered=True)


def _row(answered: Mapping[str, Any], completion: Completion | None) -> dict[str, Any]:
    """A conversion; without one where the answer is too long, by our count (then nobody was asked) or by the server's, or is refused."""
    is_there = completion is not None and completion.finish not in UNANSWERED
    return {
        "document_id": answered["document_id"],
        "repeat": answered["repeat"],
        "conversion": completion.text if completion and is_there else None,
        "finish": completion.finish if completion else "too_long",
        "num_prompt_tokens": completion.num_prompt_tokens if completion else 0,
        "num_answer_tokens": completion.num_answer_tokens if completion else 0,
    }
