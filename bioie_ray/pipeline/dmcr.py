"""``dmcr/<name>@<version>``: what every answer is worth, as it stands, undressed, and after both evaluators; what is left waits for a person.

An empty answer (white space, or nothing) is malformed, so it counts as such and as an empty list in all three scores. Nobody is asked to
convert it, so nobody can agree about it: its verdict is ``empty``, with and without evaluators. ``agreed_empty`` is another thing: an
answer that says something, of which two evaluators say that it names nothing (``dmcr/verdict.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.record import sum_of
from bioie_ray.config.recipe import Recipe
from bioie_ray.dmcr.conversion import read_conversion
from bioie_ray.dmcr.reading import RULES_VERSION, read_answer
from bioie_ray.dmcr.verdict import judge
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.convert import ConvertStep
from bioie_ray.pipeline.generate import NOT_ASKED, GenerateStep
from bioie_ray.pipeline.prompts import split_unit
from bioie_ray.pipeline.step import ShardStep, Step
from bioie_ray.pipeline.view import View
from bioie_ray.prompting.answers import Answers, Kind, format_list

FORMAT_VERSION = 2
DMCR_SCHEMA = pa.schema(
    [
        ("document_id", pa.string()),
        ("repeat", pa.int32()),
        ("answer", pa.string()),
        ("status", pa.string()),
        ("rule", pa.string()),
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("cleaned", pa.string()),
        ("conversion_a", pa.string()),
        ("conversion_b", pa.string()),
        ("list_a", pa.string()),
        ("list_b", pa.string()),
        ("verdict", pa.string()),
        ("invented_a", pa.string()),
        ("invented_b", pa.string()),
        ("corrected", pa.string()),
    ]
)


@dataclass(frozen=True)
class DmcrStep(ShardStep):
    """Read every answer; where it is malformed, compare the two conversions."""

    recipe: Recipe
    generation: GenerateStep
    conversions: tuple[ConvertStep, ...]

    @cached_property
    def output(self) -> Output:
        """The verdicts; decisions of people are beside them and in no fingerprint but that of the scores."""
        payload = {
            "kind": "dmcr",
            "format_version": FORMAT_VERSION,
            "generations": self.generation.output.fingerprint,
            "conversions": [step.output.fingerprint for step in self.conversions],
            "rules": RULES_VERSION,
        }
        return Output(self.generation.output.address, f"dmcr/{self.recipe.name_of('dmcr')}@{self.recipe.version}", payload)

    @property
    def corpus(self) -> Step:
        """Of the documents that were asked about."""
        return self.generation.prompts.corpus

    @property
    def inputs(self) -> Sequence[Step]:
        """Corpus, answers and conversions."""
        return (self.corpus, self.generation, *self.conversions)

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"reviewing {self.output.key.removeprefix('dmcr/')}"

    def units(self) -> list[str]:
        """One unit a shard of answers."""
        return self.generation.output.shards()

    def worker(self) -> WorkerSpec:
        """No model: reading and comparing."""
        arguments = {
            "kind": self.generation.prompts.task.kind,
            "view": self.generation.prompts.view,
            "generation": self.generation.output,
            "conversions": tuple(step.output for step in self.conversions),
            "output": self.output,
        }
        return WorkerSpec(DmcrWorker, arguments)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """How many answers wait for a person, and who the evaluators were."""
        waiting = sum_of(markers, "differ")
        extra: dict[str, Any] = {
            "task": self.recipe.task,
            "corpus": self.corpus.output.key,
            "evaluators": [step.settings.model for step in self.conversions],
            "waiting": waiting,
        }
        if waiting:
            extra["warnings"] = [f"{waiting} answers wait for a person's decision: bioie review {self.output.location}"]
        return extra


class DmcrWorker:
    """Answer shard and both conversions in, verdicts out."""

    def __init__(self, kind: Kind, view: View, generation: Output, conversions: Sequence[Output], output: Output) -> None:
        self._kind = kind
        self._view = view
        self._generation = generation
        self._conversions = conversions
        self._output = output

    def process(self, unit: str) -> None:
        """Judge the answers of one shard."""
        rows = self._generation.read_shard(unit, ["document_id", "repeat", "answer", "finish"]).to_pylist()
        table = self._view.queries(split_unit(unit)[0], ["id", "text"])
        texts = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
        replies = [self._replies(conversions, unit) for conversions in self._conversions]
        judged = [self._judge(row, texts[row["document_id"]], [each.get(row["document_id"]) for each in replies]) for row in rows]
        counts = {"answers": len(judged), "not_asked": sum(row["finish"] == NOT_ASKED for row in rows)}
        for name in ("valid", "dressed", "malformed"):
            counts[name] = sum(row["status"] == name for row in judged)
        for name in ("empty", "agreed", "agreed_empty", "differ"):
            counts[name] = sum(row["verdict"] == name for row in judged)
        counts["invented"] = sum(len(json.loads(row[side])) for row in judged for side in ("invented_a", "invented_b") if row[side])
        self._output.commit(unit, pa.Table.from_pylist(judged, schema=DMCR_SCHEMA), counts)

    def _replies(self, conversions: Output, unit: str) -> dict[str, str | None]:
        table = conversions.read_shard(unit, ["document_id", "conversion"])
        return dict(zip(table["document_id"].to_pylist(), table["conversion"].to_pylist(), strict=True))

    def _judge(self, row: Mapping[str, Any], text: str, replies: Sequence[str | None]) -> dict[str, Any]:
        reading = read_answer(row["answer"], self._kind)
        judged: dict[str, Any] = {
            **dict.fromkeys(DMCR_SCHEMA.names),
            "document_id": row["document_id"],
            "repeat": row["repeat"],
            "answer": row["answer"],
            "status": reading.status,
            "rule": reading.rule,
            "reason": NOT_ASKED if row["finish"] == NOT_ASKED else reading.reason,
            "raw": _dump(reading.raw),
            "cleaned": _dump(reading.cleaned),
            "verdict": "none",
            "corrected": _dump(reading.cleaned),
        }
        if reading.status != "malformed" or row["finish"] == NOT_ASKED:
            return judged
        if reading.reason == "empty":
            return judged | {"verdict": "empty"}
        if not replies:
            return judged
        lists = [None if reply is None else read_conversion(reply, self._kind) for reply in replies]
        verdict = judge(row["answer"], text, lists[0], lists[1], self._kind)
        return judged | {
            "conversion_a": replies[0],
            "conversion_b": replies[1],
            "list_a": _dump(lists[0]),
            "list_b": _dump(lists[1]),
            "verdict": verdict.outcome,
            "invented_a": _dump(verdict.invented_a),
            "invented_b": _dump(verdict.invented_b),
            "corrected": _dump(verdict.corrected),
        }


def _dump(answers: Answers | None) -> str | None:
    """A list as it is stored; ``load_answers`` is the inverse."""
    return None if answers is None else format_list(answers)
