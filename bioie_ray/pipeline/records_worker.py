"""Part of a source in, shards of records out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final

import pyarrow as pa

from bioie_ray.artifacts.output import Output
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.steps import TaskName
from bioie_ray.corpora.formats.json_stream import JsonRecord
from bioie_ray.corpora.reading import SourceFile
from bioie_ray.corpora.tasks import get_task
from bioie_ray.pipeline.held_out import HeldOutTexts
from bioie_ray.pipeline.task_documents import TaskDocuments
from bioie_ray.prompting.instructions import Instructions
from bioie_ray.prompting.phrasings import Phrasings
from bioie_ray.training.instructions.adelie import read_adelie
from bioie_ray.training.instructions.conversation import BadRecordError, Conversation, NoAnswerError
from bioie_ray.training.instructions.curation import NOT_KEPT, RECORD_SCHEMA, Curator, LeftOut
from bioie_ray.training.instructions.overlap import OverlapIndex
from bioie_ray.training.instructions.source_files import Unreadable, find_files, locate_source, parts_of, read_records
from bioie_ray.training.instructions.taiyi import read_taiyi
from bioie_ray.training.instructions.task_questions import TaskQuestions
from bioie_ray.training.tokens import load_chat_tokenizer

_FORMS: Final[Mapping[str, Callable[[Any, str, int], Conversation]]] = {"taiyi": read_taiyi, "adelie": read_adelie}
_RAW_CHARS: Final = 2_000


class RecordsWorker:
    """Holds the tokenizer and the words of all documents that are held out."""

    def __init__(
        self,
        recipe: Recipe,
        instructions: Instructions,
        phrasings: Phrasings,
        documents: Mapping[tuple[int, TaskName], TaskDocuments],
        paths: Mapping[int, str],
        held_out: HeldOutTexts,
        output: Output,
    ) -> None:
        self._recipe = recipe
        self._settings = recipe.instructions
        self._instructions = instructions
        self._phrasings = phrasings
        self._documents = documents
        self._paths = paths
        self._held_out = held_out
        self._output = output
        self._found_files: dict[int, list[SourceFile]] = {}

    def process(self, unit: str) -> None:
        """Read one part.

        Raises:
            SourceError: its file cannot be read as a whole.
        """
        entry, _, rest = unit.removeprefix("s").partition(".")
        number = int(entry)
        if self._settings.sources[number].kind == "tasks":
            self._ask(number, rest, unit)
        else:
            self._read(number, rest, unit)

    def _ask(self, number: int, rest: str, unit: str) -> None:
        name, _, shard = rest.partition(".")
        documents = next(found for (n, task), found in self._documents.items() if (n, task) == (number, name))
        task = get_task(name, self._recipe.nlm_gene_types)
        questions = TaskQuestions(task, self._instructions, self._phrasings, self._settings.sources[number].phrasings)
        chosen = documents.read(shard)
        collected = _Shard()
        for reason, left_out in (("dev_documents", chosen.num_dev), ("same_text_as_held_out", chosen.num_same_text)):
            collected.counts.update({"read": left_out * questions.num_phrasings, reason: left_out * questions.num_phrasings})
        for document in chosen.documents:
            for phrasing, conversation in enumerate(questions.conversations(document), start=1):
                collected.take(
                    self._curator,
                    partial(_given, conversation),
                    f"{task.key}/{phrasing}",
                    {"file": unit, "line": None, "raw": document.text},
                )
        collected.commit(self._output, unit)

    def _read(self, number: int, rest: str, unit: str) -> None:
        """A part of a file, shard by shard; those that are there are passed over, but their lines are counted."""
        file_number, part_number = (int(text[1:]) for text in rest.split(".")[:2])
        file = self._files(number)[file_number]
        form = _FORMS[self._settings.sources[number].kind]
        done = self._output.markers()
        records = read_records(file.path, parts_of(file.path)[part_number])
        size = self._settings.records_per_shard
        for place in itertools.count():
            chunk = list(itertools.islice(records, size))
            shard = f"{unit.removesuffix('.rest')}.{place:05d}" if len(chunk) == size else unit
            if shard not in done:
                self._commit_chunk(shard, chunk, file, form)
            if shard == unit:
                return

    def _commit_chunk(
        self, shard: str, chunk: Sequence[JsonRecord | Unreadable], file: SourceFile, form: Callable[[Any, str, int], Conversation]
    ) -> None:
        collected = _Shard()
        for record in chunk:
            where = f"{file.name}:{record.line}"
            read = partial(_read_record, record, form, where, self._settings.max_chars)
            collected.take(self._curator, read, "", {"file": file.name, "line": record.line, "raw": record.raw})
        collected.commit(self._output, shard)

    def _files(self, number: int) -> list[SourceFile]:
        if number not in self._found_files:
            self._found_files[number] = find_files(locate_source(self._paths[number]))
        return self._found_files[number]

    @cached_property
    def _curator(self) -> Curator:
        train = self._recipe.train
        overlap = OverlapIndex.build(self._held_out.read(), self._settings.overlap_words)
        return Curator(self._settings, overlap, load_chat_tokenizer(train.base_model, train.template))


class _Shard:
    """Rows, counts and quarantine of a shard in the making."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(("read", "kept", *(reason for reason in NOT_KEPT if reason != "quarantined")), 0))
        self._rows: list[dict[str, Any]] = []
        self._rejected: list[dict[str, Any]] = []

    def take(self, curator: Curator, read: Callable[[], Conversation], group: str, source: Mapping[str, Any]) -> None:
        """Count one record, wherever it goes; ``source`` says where it stands."""
        self.counts["read"] += 1
        try:
            found = curator.look(read(), group)
        except NoAnswerError:
            self.counts["no_answer"] += 1
            return
        except BadRecordError as error:
            self._rejected.append({**source, "reason": str(error), "raw": str(source["raw"])[:_RAW_CHARS]})
            return
        if isinstance(found, LeftOut):
            self.counts[found.reason] += 1
            self.counts.update(f"overlap_{corpus}" for corpus in found.corpora)
        else:
            self.counts["kept"] += 1
            self._rows.append(found)

    def commit(self, output: Output, shard: str) -> None:
        """Write it."""
        output.commit(shard, pa.Table.from_pylist(self._rows, schema=RECORD_SCHEMA), dict(sorted(self.counts.items())), self._rejected)


def _given(conversation: Conversation) -> Conversation:
    return conversation


def _read_record(
    record: JsonRecord | Unreadable, form: Callable[[Any, str, int], Conversation], where: str, max_chars: int
) -> Conversation:
    if isinstance(record, Unreadable):
        raise BadRecordError(record.reason)
    return form(record.value, where, max_chars)
