"""``preferences/<name>@<version>``: pairs of the gold answer and a wrong one, from the tuned model or as they are given."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.artifacts.record import sum_of
from bioie_ray.config.recipe import Recipe
from bioie_ray.corpora.catalog import fingerprint_source
from bioie_ray.corpora.document import Document
from bioie_ray.corpora.draws import in_drawn_order
from bioie_ray.corpora.reading import SourceFile
from bioie_ray.corpora.tasks import get_task, gold
from bioie_ray.dmcr.reading import RULES_VERSION
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.candidates import CandidatesStep
from bioie_ray.pipeline.held_out import HeldOut
from bioie_ray.pipeline.step import Step, address_of
from bioie_ray.training.instructions.source_files import Part, find_files, locate_source, read_records

if TYPE_CHECKING:
    from bioie_ray.training.instructions.overlap import OverlapIndex

FORMAT_VERSION = 4
PREFERENCE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("messages", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("kind", pa.string()),
        ("made_by", pa.string()),
        ("f1", pa.float64()),
    ]
)
PAIRS_PER_SHARD = 2_000
_UNIT = "pairs"
_RAW_CHARS = 2_000
# Why a document or record makes no pair, and what to do about it.
_LEFT_OUT = {
    "no_wrong_answer": "sample more answers (preferences.samples, temperature), or allow corruptions (preferences.corruptions=1)",
    "test_overlap": "set instructions.overlap_words higher if what they share with test documents is no more than a phrase",
}
# Answers, not documents: the token limit broke them off, so what is wrong with them is no mistake of the model.
_CUT_OFF = "cut_off"
_COUNTS = ("read", "pairs", *_LEFT_OUT, _CUT_OFF)


@dataclass(frozen=True)
class PreferencesStep:
    """Chooses pairs. Which kind of error is short depends on all documents, so it is one unit; its shards are what is kept when it is killed.

    Without ``candidates`` pairs are given. Nothing that is ``held_out`` is in any.
    """

    recipe: Recipe
    candidates: CandidatesStep | None
    held_out: HeldOut

    @cached_property
    def output(self) -> Output:
        """The pairs; the payload covers candidates and policy, or the given files, and what must not be in them."""
        settings = self.recipe.preferences
        payload: dict[str, Any] = {
            "kind": "preferences",
            "format_version": FORMAT_VERSION,
            **self.held_out.payload("held_out"),
            "overlap_words": self.recipe.instructions.overlap_words,
            "seed": self.recipe.seed,
        }
        if self.candidates is None:
            payload |= {"given": fingerprint_source(self.files), "max_chars": self.recipe.instructions.max_chars}
        else:
            policy = {"pairs_per_document", "corruptions", "kinds", "fill_kinds", "max_f1"}
            payload |= {
                "candidates": self.candidates.output.fingerprint,
                "policy": settings.model_dump(mode="json", include=policy),
                "rules": RULES_VERSION,
            }
        return Output(address_of(self.recipe), f"preferences/{self.recipe.name_of('preferences')}@{self.recipe.version}", payload)

    @cached_property
    def files(self) -> list[SourceFile]:
        """The given files."""
        assert self.recipe.preferences.path is not None, "without a path there are candidates"
        return find_files(locate_source(self.recipe.preferences.path))

    @property
    def inputs(self) -> Sequence[Step]:
        """The candidates, with the corpora they are about, and those whose documents must not be inside."""
        asked = (self.candidates, *self.candidates.corpora.values()) if self.candidates else ()
        return (*asked, *self.held_out.steps)

    @property
    def takes_notes(self) -> bool:
        """Its one unit is a matter of seconds to a minute."""
        return False

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"choosing pairs {self.output.key.removeprefix('preferences/')}"

    def units(self) -> list[str]:
        """One."""
        return [_UNIT]

    def is_done(self, unit: str, markers: Mapping[str, Marker]) -> bool:
        """Only with the record: how many shards there will be is not known before."""
        return False

    def worker(self) -> WorkerSpec:
        """One process."""
        return WorkerSpec(PreferencesWorker, {"step": self})

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """The mix: pairs by kind of error and by whose the wrong answer is.

        Raises:
            ValueError: there is no pair, or too much is in quarantine; what was written is given up.
        """
        totals = {name: sum_of(markers, name) for name in (*_COUNTS, "quarantined")}
        problem = self._problem(totals)
        if problem:
            self.output.discard()
            raise ValueError(problem)
        mix = Counter[str]()
        for shard in sorted(markers):
            table = self.output.read_shard(shard, ["kind", "made_by"])
            mix.update(f"{made_by} {kind}".strip() for kind, made_by in zip(*(column.to_pylist() for column in table.columns), strict=True))
        warnings = self._warnings(totals)
        return {"mix": dict(sorted(mix.items())), "totals": totals, **({"warnings": warnings} if warnings else {})}

    def _warnings(self, totals: Mapping[str, int]) -> list[str]:
        told = []
        if num := totals["test_overlap"]:
            held_out = "test or dev" if self.held_out.dev else "test"
            told.append(f"{num} of {totals['read']} records or documents hold what a {held_out} document says and are left out")
        if num := totals[_CUT_OFF]:
            told.append(f"{num} answers of the model were cut off and are left out; set preferences.max_new_tokens higher")
        return told

    def _problem(self, totals: Mapping[str, int]) -> str | None:
        """What went wrong, and what would help against it."""
        told = f"{self.what}: {totals['pairs']} pairs of {totals['read']} {'documents' if self.candidates else 'records'}"
        limit = self.recipe.instructions.max_quarantined_share
        if totals["quarantined"] > limit * totals["read"]:
            return (
                f"{told}, {totals['quarantined']} in quarantine (see {self.output.location}/_quarantine), and instructions.max_quarantined_share is "
                f"{limit:.1%}; mend the source, or raise the limit"
            )
        if totals["pairs"]:
            return None
        reasons = [f"{totals[name]} {name.replace('_', ' ')}" for name in (*_LEFT_OUT, "quarantined") if totals[name]]
        reasons += [f"{totals[_CUT_OFF]} answers cut off"] if totals[_CUT_OFF] else []
        ways_out = [advice for name, advice in _LEFT_OUT.items() if totals[name]]
        ways_out += ["set preferences.max_new_tokens higher"] if totals[_CUT_OFF] else []
        others = "take other documents (preferences.tasks, splits)" if self.candidates else "give another preferences.path"
        return f"{told} ({', '.join(reasons) or 'there were none'}); {', or '.join([*ways_out, others])}"


class PreferencesWorker:
    """Candidates or files in, pairs out."""

    def __init__(self, step: PreferencesStep) -> None:
        self._step = step
        self._recipe = step.recipe
        self._output = step.output

    def process(self, unit: str) -> None:
        """Make all pairs; shards that are there already are the same."""
        rows: list[dict[str, Any]] = []
        rejected: list[dict[str, Any]] = []
        counts = Counter[str]()
        number = 0
        for found in self._chosen() if self._step.candidates else self._given():
            counts["read"] += found.pop("read", 1)
            counts[_CUT_OFF] += found.pop(_CUT_OFF, 0)
            if "reason" in found:
                rejected.append(found)
            elif "left_out" in found:
                counts[found["left_out"]] += 1
            elif self._says_a_test(found["messages"], found["chosen"], found["rejected"]):
                counts["test_overlap"] += 1
            else:
                rows.append(found)
            if len(rows) == PAIRS_PER_SHARD:
                self._commit(number, rows, counts, rejected)
                rows, rejected, counts, number = [], [], Counter[str](), number + 1
        if rows or not number or rejected or counts:
            self._commit(number, rows, counts, rejected)

    def _commit(self, number: int, rows: Sequence[Mapping[str, Any]], counts: Counter[str], rejected: Sequence[Mapping[str, Any]]) -> None:
        table = pa.Table.from_pylist(list(rows), schema=PREFERENCE_SCHEMA)
        told = {name: counts[name] for name in _COUNTS} | {"pairs": len(rows)}
        self._output.commit(f"train-{number:05d}", table, told, rejected)

    def _given(self) -> Iterator[dict[str, Any]]:
        from bioie_ray.training.instructions.conversation import BadRecordError
        from bioie_ray.training.instructions.source_files import Unreadable
        from bioie_ray.training.preferences.given import read_pair

        for file in self._step.files:
            for record in read_records(file.path, Part()):
                where = {"file": file.name, "line": record.line, "raw": str(record.raw)[:_RAW_CHARS]}
                if isinstance(record, Unreadable):
                    yield {**where, "reason": record.reason}
                    continue
                try:
                    pair = read_pair(record.value, self._recipe.instructions.max_chars)
                except BadRecordError as error:
                    yield {**where, "reason": str(error)}
                    continue
                yield {"id": f"{file.name}:{record.line}", "source": file.name, **pair, "kind": "", "made_by": "given", "f1": None}

    def _chosen(self) -> Iterator[dict[str, Any]]:
        from bioie_ray.evaluation.gold_view import GoldView
        from bioie_ray.prompting.answers import format_list
        from bioie_ray.training.preferences.choosing import Chooser
        from bioie_ray.training.preferences.corruptions import corrupt
        from bioie_ray.training.preferences.wrongness import judge

        step, settings, seed = self._step.candidates, self._recipe.preferences, self._recipe.seed
        assert step is not None, "given pairs are not chosen"
        for name in step.tasks:  # the mix is kept by task: each has its own kinds of errors
            task = get_task(name, self._recipe.nlm_gene_types)
            chooser = Chooser(settings.kinds, settings.corruptions, seed, settings.fill_kinds)
            answers, num_cut_off = self._answers(name)
            documents = {document.id: document for document in self._documents(name) if document.id in answers}
            for id_ in in_drawn_order(list(documents), "preferences", seed):
                document = documents[id_]
                question = step.instructions.question(task, document.text)
                messages = json.dumps([{"role": "user", "content": question}], ensure_ascii=False)
                view, right = GoldView.of(task, document), gold(task, document).answers
                if self._says_a_test(messages, format_list(right), ""):  # before the choice, or its mix would count what is left out
                    yield {"left_out": "test_overlap"}
                    continue
                make = partial(corrupt, view, right, document.text, max_f1=settings.max_f1, seed=f"{seed}:{name}/{document.id}")
                wrong = [found for text in answers[id_] if (found := judge(view, text, settings.max_f1)) is not None]
                chosen = chooser.choose(id_, wrong, make, settings.pairs_per_document)
                if not chosen:
                    yield {"left_out": "no_wrong_answer", _CUT_OFF: num_cut_off[id_]}
                for number, one in enumerate(chosen, start=1):
                    yield {
                        "read": int(number == 1),
                        _CUT_OFF: num_cut_off[id_] if number == 1 else 0,
                        "id": f"{name}/{id_}/{number}",
                        "source": f"tasks:{name}",
                        "messages": messages,
                        "chosen": format_list(right),
                        "rejected": one.wrong.text,
                        "kind": one.wrong.kind,
                        "made_by": one.made_by,
                        "f1": one.wrong.f1,
                    }

    def _says_a_test(self, messages: str, chosen: str, rejected: str) -> bool:
        """Whether a pair holds as many words in a row of a held-out document as instruction data must not."""
        from bioie_ray.training.instructions.words import word_hashes

        text = "\n".join([*(turn["content"] for turn in json.loads(messages)), chosen, rejected])
        return bool(self._overlap.corpora_in(word_hashes(text)))

    @cached_property
    def _overlap(self) -> OverlapIndex:
        from bioie_ray.training.instructions.overlap import OverlapIndex

        return OverlapIndex.build(self._step.held_out.texts.read(), self._recipe.instructions.overlap_words)

    def _answers(self, name: str) -> tuple[dict[str, list[str]], Counter[str]]:
        """The answers about each document that was asked about, and how many about it were cut off."""
        assert self._step.candidates is not None, "given pairs are not chosen"
        output = self._step.candidates.output
        found: dict[str, list[str]] = {}
        num_cut_off = Counter[str]()
        for shard in output.shards():
            if shard.startswith(f"{name}."):
                table = output.read_shard(shard, ["document_id", "answer", "finish"])
                for id_, text, finish in zip(*(column.to_pylist() for column in table.columns), strict=True):
                    answers = found.setdefault(id_, [])
                    if finish == "length":
                        num_cut_off[id_] += 1
                    else:
                        answers.append(text)
        return found, num_cut_off

    def _documents(self, name: Any) -> Iterator[Document]:
        assert self._step.candidates is not None, "given pairs are not chosen"
        source = self._step.candidates.documents(name)
        for shard in source.shards():
            yield from source.read(shard).documents
