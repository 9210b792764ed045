"""``instructions/<name>@<version>``: the conversations that a model is tuned on, from all sources, shuffled, in shards of one size."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from bioie_ray.artifacts.output import Marker, Output
from bioie_ray.config.recipe import Recipe
from bioie_ray.config.training import InstructionSettings
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.pipeline.records import RecordsStep, entry_of
from bioie_ray.pipeline.step import Step
from bioie_ray.training.instructions.curation import NOT_KEPT
from bioie_ray.training.instructions.mixture import NOT_MIXED, Candidate, Mixture, Taken, mix

FORMAT_VERSION: Final = 1
INSTRUCTION_SCHEMA: Final = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("language", pa.string()), ("messages", pa.string()), ("num_tokens", pa.int32())]
)
_UNIT: Final = "mixture"
_COUNTS: Final = "mixture.json"
_LENGTH_BINS: Final = 20


@dataclass(frozen=True)
class InstructionsStep:
    """Mixes the records. What is a duplicate depends on all of them, so it is one unit; its shards are what is kept when it is killed."""

    recipe: Recipe
    records: RecordsStep

    @cached_property
    def output(self) -> Output:
        """The mixture; the payload covers the records, what is drawn of them and their order."""
        settings = self.recipe.instructions
        payload = {
            "kind": "instructions",
            "format_version": FORMAT_VERSION,
            "records": self.records.output.fingerprint,
            "near_duplicates": settings.near_duplicates,
            "sources": [{"max_records": source.max_records, "weight": source.weight} for source in settings.sources],
            "records_per_shard": settings.records_per_shard,
            "seed": self.recipe.seed,
        }
        key = f"instructions/{self.recipe.name_of('instructions')}@{self.recipe.version}"
        return Output(self.records.output.address, key, payload)

    @property
    def inputs(self) -> Sequence[Step]:
        """The records."""
        return (self.records,)

    @property
    def takes_notes(self) -> bool:
        """Its one unit takes minutes where there are hundreds of thousands of records."""
        return True

    @property
    def what(self) -> str:
        """For the progress line."""
        return f"mixing instruction data {self.output.key.removeprefix('instructions/')}"

    def units(self) -> list[str]:
        """One."""
        return [_UNIT]

    def is_done(self, unit: str, markers: Mapping[str, Marker]) -> bool:
        """Only with the record: how many shards there will be is not known before."""
        return False

    def worker(self) -> WorkerSpec:
        """One process."""
        arguments = {"settings": self.recipe.instructions, "seed": self.recipe.seed, "records": self.records.output, "output": self.output}
        return WorkerSpec(InstructionsWorker, arguments)

    def finalise(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        """What the page of statistics shows: by source and language, what was left out and why, lengths.

        Raises:
            ValueError: nothing is left. What was written is given up.
        """
        read = self.records.output.record()
        counts: list[dict[str, int]] = json.loads(self.output.store.read(f"{self.output.key}/{_COUNTS}"))
        entries = [{**entry, **own} for entry, own in zip(read["sources"], counts, strict=True)]
        if not any(entry["rows"] for entry in counts):
            self.output.store.delete(f"{self.output.key}/{_COUNTS}")
            self.output.discard()
            told = "; ".join(f"{entry['what']}: {_left_out(entry) or 'nothing read'}" for entry in entries)
            raise ValueError(f"{self.what}: no record is left ({told}); mend the sources, or change instructions.*")
        return {"sources": entries, "overlap": read["overlap"], **self._statistics(markers)}

    def _statistics(self, markers: Mapping[str, Marker]) -> dict[str, Any]:
        by_source, by_language, lengths = Counter[str](), Counter[str](), Counter[int]()
        tokens = Counter[str]()
        width = max(1, -(-self.recipe.instructions.max_tokens // _LENGTH_BINS))
        for shard in sorted(markers):
            table = self.output.read_shard(shard, ["source", "language", "num_tokens"])
            for source, language, num_tokens in zip(*(column.to_pylist() for column in table.columns), strict=True):
                by_source[source] += 1
                tokens[source] += num_tokens
                by_language[language] += 1
                lengths[(num_tokens - 1) // width] += 1
        return {
            "data_sets": {source: {"rows": n, "tokens": tokens[source]} for source, n in sorted(by_source.items())},
            "languages": dict(by_language.most_common()),
            "token_lengths": {"bin_width": width, "rows": [lengths[place] for place in range(max(lengths, default=0) + 1)]},
        }


class InstructionsWorker:
    """Records in, mixture out."""

    def __init__(self, settings: InstructionSettings, seed: int, records: Output, output: Output) -> None:
        self._settings = settings
        self._seed = seed
        self._records = records
        self._output = output
        self._shards = records.shards()

    def process(self, unit: str) -> None:
        """Mix, then write the shards that are not there yet. Rows go by way of a folder of this machine, so that memory holds one shard."""
        mixture = mix(self._candidates(), self._settings.sources, self._settings.near_duplicates, self._seed)
        self._output.note(f"{len(mixture.rows):,} rows of {sum(entry.records for entry in mixture.entries):,} records")
        size = self._settings.records_per_shard
        shards = {f"train-{n:05d}": mixture.rows[start : start + size] for n, start in enumerate(range(0, len(mixture.rows), size))}
        done = self._output.markers()
        missing = {name: rows for name, rows in shards.items() if name not in done}
        with tempfile.TemporaryDirectory(prefix="bioie-mixture-") as folder:
            self._sort_into(Path(folder), missing)
            for name, rows in missing.items():
                table = _table(Path(folder) / name, rows)
                self._output.commit(name, table, {**_marker_counts(mixture, name), "tokens": sum(table["num_tokens"].to_pylist())})
        self._output.put_file(_COUNTS, json.dumps([entry.as_dict() for entry in mixture.entries], indent=1).encode())

    def _candidates(self) -> Iterator[Candidate]:
        for number, shard in enumerate(self._shards):
            entry = entry_of(shard)
            columns = ["id", "digest", "group", "signature", "answer_words"]
            table = self._records.read_shard(shard, columns)
            signatures = table["signature"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1) if table.num_rows else []
            ids, digests, groups, answers = (table[name].to_pylist() for name in ("id", "digest", "group", "answer_words"))
            for row in range(table.num_rows):
                yield Candidate(entry, (number, row), ids[row], digests[row], groups[row], signatures[row], answers[row])

    def _sort_into(self, folder: Path, shards: Mapping[str, Sequence[Taken]]) -> None:
        """One file for each shard with the records it needs, as they come by when all are read once."""
        wanted: dict[int, dict[int, set[str]]] = {}
        for name, rows in shards.items():
            (folder / name).touch()
            for number, row in (taken.place for taken in rows):
                wanted.setdefault(number, {}).setdefault(row, set()).add(name)
        columns = ["source", "language", "messages", "num_tokens"]
        for number, rows_of in sorted(wanted.items()):
            table = self._records.read_shard(self._shards[number], columns)
            lines: dict[str, list[str]] = {}
            for row, names in sorted(rows_of.items()):
                (record,) = table.slice(row, 1).to_pylist()
                for name in names:
                    lines.setdefault(name, []).append(json.dumps([[number, row], record], ensure_ascii=False) + "\n")
            for name, text in lines.items():
                with (folder / name).open("a", encoding="utf-8") as file:
                    file.writelines(text)


def _table(path: Path, rows: Sequence[Taken]) -> pa.Table:
    with path.open(encoding="utf-8", newline="\n") as file:
        records = {tuple(place): record for place, record in map(json.loads, file)}
    return pa.Table.from_pylist([{"id": taken.id, **records[taken.place]} for taken in rows], schema=INSTRUCTION_SCHEMA)


def _marker_counts(mixture: Mixture, shard: str) -> dict[str, int]:
    """What was left out of the whole stands in the marker of the first shard."""
    if shard != "train-00000":
        return {}
    totals = Counter[str]()
    for entry in mixture.entries:
        totals.update(entry.as_dict())
    del totals["rows"]
    return dict(totals)


def _left_out(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{entry[reason]} {reason.replace('_', ' ')}" for reason in (*NOT_KEPT, *NOT_MIXED) if entry[reason])
