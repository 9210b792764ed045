"""``records/<name>@<version>``: every source of instruction data as checked conversations, each judged by itself.

A unit is a part of a source: a corpus shard for our own tasks, a file or sixteen megabytes of one for others. A part of a file becomes
several shards as it is read, so that memory is bounded; its last one, ``.rest``, says that the part is done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import TaskName
from bioie_ray.config.training import SourceSettings
from bioie_ray.corpora.catalog import fingerprint_source
from bioie_ray.corpora.reading import SourceFile
from bioie_ray.corpora.tasks import get_task
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.held_out import HeldOut
from bioie_ray.pipeline.records_worker import RecordsWorker
from bioie_ray.pipeline.step import ShardStep, Step, address_of
from bioie_ray.pipeline.task_documents import TaskDocuments
from bioie_ray.prompting.instructions import Instructions, load_instructions
from bioie_ray.prompting.phrasings import Phrasings, load_phrasings
from bioie_ray.retrieval.models import tokenizer_fingerprint
from bioie_ray.training.chat_template import template_digest
from bioie_ray.training.instructions.curation import NOT_KEPT
from bioie_ray.training.instructions.overlap import MIN_WORDS, too_short
from bioie_ray.training.instructions.source_files import find_files, locate_source, parts_of

FORMAT_VERSION: Final = 3
_REASONS_SHOWN: Final = 3


@dataclass(frozen=True)
class RecordsStep(ShardStep):
    """Reads the sources. What is ``held_out`` must be in none; its test corpora are those of all tasks."""

    recipe: Recipe
    held_out: HeldOut

    @cached_property
    def output(self) -> Output:
        """The records; the payload covers what is read, how it is asked and what it is measured with."""
        recipe, settings = self.recipe, self.recipe.instructions
        # How many are drawn, and what is a duplicate, is settled later: other numbers there read nothing again.
        later = {"sources", "held_out", "near_duplicates", "max_quarantined_share"}
        payload = {
            "kind": "records",
            "format_version": FORMAT_VERSION,
            "sources": [self._source_payload(number) for number in range(len(settings.sources))],
            "settings": settings.model_dump(mode="json", exclude=later),
            "tokenizer": tokenizer_fingerprint(recipe.train.base_model),
            "template": template_digest(recipe.train.template),
            **self.held_out.payload("corpora"),
        }
        if any(source.kind == "tasks" for source in settings.sources):
            payload |= {
                "instructions": self.instructions.digest,
                "phrasings": self.phrasings.digest,
                "dev_share": recipe.select.dev_share,
                "seed": recipe.seed,
            }
        return Output(address_of(recipe), f"records/{recipe.name_of('records')}@{recipe.version}", payload)

    @cached_property
    def instructions(self) -> Instructions:
        """What generation asks."""
        return load_instructions(self.recipe.prompt.instructions)

    @cached_property
    def phrasings(self) -> Phrasings:
        """Its further wordings."""
        return load_phrasings()

    @property
    def inputs(self) -> Sequence[Step]:
        """The corpora."""
        return self.held_out.steps

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"reading instruction data {self.output.key.removeprefix('records/')}"

    def units(self) -> list[str]:
        """Parts of sources, in their order; ``s01.f0002.p0003.rest``, or ``s00.biorelex.train-00004``."""
        units: list[str] = []
        for number, source in enumerate(self.recipe.instructions.sources):
            if source.kind == "tasks":
                names = [f"{task}.{shard}" for task in self._tasks(source) for shard in self._documents(task, source).shards()]
            else:
                files = enumerate(self._files[number])
                names = [f"f{n:04d}.p{part:04d}.rest" for n, file in files for part in range(len(parts_of(file.path)))]
            units += [f"s{number:02d}.{name}" for name in names]
        return units

    def worker(self) -> WorkerSpec:
        """Tokenizer and held-out documents, loaded once per process."""
        sources = self.recipe.instructions.sources
        return WorkerSpec(
            RecordsWorker,
            {
                "recipe": self.recipe,
                "instructions": self.instructions,
                "phrasings": self.phrasings,
                "documents": {
                    (number, task): self._documents(task, source)
                    for number, source in enumerate(sources)
                    if source.kind == "tasks"
                    for task in self._tasks(source)
                },
                "paths": {number: self._path(source) for number, source in enumerate(sources) if source.path is not None},
                "held_out": self.held_out.texts,
                "output": self.output,
            },
        )

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """Counts by source.

        Raises:
            ValueError: a source holds nothing, or too much that is no record. What was written is given up then; the quarantine stays.
        """
        entries = self._entries(markers)
        for number, entry in enumerate(entries):
            problem = self._problem(number, entry, markers)
            if problem:
                self.output.discard()
                raise ValueError(problem)
        overlap = Counter[str]()
        for marker in markers.values():
            overlap.update({name.removeprefix("overlap_"): n for name, n in marker.counts.items() if name.startswith("overlap_") and n})
        base_model = self.recipe.train.base_model
        return {
            "tokenizer": base_model,
            "sources": entries,
            "overlap": dict(sorted(overlap.items())),
            "warnings": self._warnings(entries, overlap, markers),
        }

    def _entries(self, markers: Mapping[str, Marker]) -> list[dict[str, Any]]:
        entries = []
        for number, source in enumerate(self.recipe.instructions.sources):
            counts = Counter[str]({"read": 0, "kept": 0, **dict.fromkeys(NOT_KEPT, 0)})
            for name, marker in markers.items():
                if entry_of(name) == number:
                    counts.update({key: n for key, n in marker.counts.items() if key in counts})
            what = ", ".join(self._tasks(source)) if source.kind == "tasks" else str(source.path)
            entries.append({"kind": source.kind, "what": what, **counts})
        return entries

    def _problem(self, number: int, entry: Mapping[str, Any], markers: Mapping[str, Marker]) -> str | None:
        place = f"instructions.sources[{number}] ({entry['kind']}: {entry['what']})"
        if not entry["read"]:
            return f"{place} holds no record; give another path, or leave the source out"
        share, limit = entry["quarantined"] / entry["read"], self.recipe.instructions.max_quarantined_share
        if share <= limit:
            return None
        return (
            f"{place}: {entry['quarantined']} of {entry['read']} records ({share:.1%}) are no conversations, and "
            f"instructions.max_quarantined_share is {limit:.1%}: {self._first_reasons(number, markers)}; all of them are in "
            f"{self.output.location}/_quarantine. Mend the source, check its `kind`, or raise the limit"
        )

    def _first_reasons(self, number: int, markers: Mapping[str, Marker]) -> str:
        reasons: list[str] = []
        for name, marker in sorted(markers.items()):
            if entry_of(name) == number and marker.counts["quarantined"] and len(reasons) < _REASONS_SHOWN:
                lines = self.output.store.read(f"{self.output.key}/_quarantine/{name}.jsonl").split(b"\n")
                rejected = [json.loads(line) for line in lines if line]
                reasons += [f"{one['file']}:{one['line']}: {one['reason']}" for one in rejected]
        return "; ".join(reasons[:_REASONS_SHOWN])

    def _warnings(self, entries: Sequence[Mapping[str, Any]], overlap: Mapping[str, int], markers: Mapping[str, Marker]) -> list[str]:
        warnings = [
            f"{entry['quarantined']} of {entry['read']} records of {entry['what']} are in quarantine: {self._first_reasons(number, markers)}"
            for number, entry in enumerate(entries)
            if entry["quarantined"]
        ]
        num_overlapping = sum(entry["test_overlap"] for entry in entries)
        if num_overlapping:
            by_corpus = ", ".join(f"{corpus} {n}" for corpus, n in sorted(overlap.items()))
            warnings.append(f"{num_overlapping} records hold what a {self._sought} document says and are left out ({by_corpus})")
        unseen = too_short(self.held_out.texts.read())
        if unseen:
            by_corpus = ", ".join(f"{corpus} {n}" for corpus, n in sorted(unseen.items()))
            warnings.append(
                f"{unseen.total()} {self._sought} documents have fewer than {MIN_WORDS} words and were not looked for ({by_corpus})"
            )
        return warnings

    def _source_payload(self, number: int) -> dict[str, Any]:
        source = self.recipe.instructions.sources[number]
        if source.kind != "tasks":
            return {"kind": source.kind, "files": fingerprint_source(self._files[number])}
        tasks = {name: list(get_task(name, self.recipe.nlm_gene_types).types or ()) for name in self._tasks(source)}
        return {"kind": "tasks", "tasks": tasks, "splits": list(source.splits), "phrasings": source.phrasings}

    @property
    def _sought(self) -> str:
        return "test or dev" if self.held_out.dev else "test"

    def _tasks(self, source: SourceSettings) -> tuple[TaskName, ...]:
        return tuple(dict.fromkeys(source.tasks or (self.recipe.task,)))

    def _documents(self, task: TaskName, source: SourceSettings) -> TaskDocuments:
        corpus = self.held_out.test[get_task(task).corpus].output
        return TaskDocuments(corpus, source.splits, self.recipe.select.dev_share, self.recipe.seed)

    @cached_property
    def _files(self) -> dict[int, list[SourceFile]]:
        sources = enumerate(self.recipe.instructions.sources)
        return {number: find_files(locate_source(source.path)) for number, source in sources if source.path is not None}

    def _path(self, source: SourceSettings) -> str:
        """A local path made absolute, because actors have other working folders; a hub id as it is, because they have other disks."""
        assert source.path is not None
        local = Path(source.path).expanduser()
        return str(local.absolute()) if local.exists() else source.path


def entry_of(shard: str) -> int:
    """The number of the source that a shard of records is of."""
    return int(shard.partition(".")[0].removeprefix("s"))
