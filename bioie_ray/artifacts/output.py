"""One versioned output, ``<kind>/<name>@<version>/``: claimed, filled shard by shard, finished by its record.

    corpora/bc5cdr@1/
      _claim.json               whose fingerprint this version belongs to; made first, by a conditional create
      train-00000.parquet       a shard: one atomic put
      _markers/train-00000.json its marker, after the data: rows, bytes, digest, counts
      _quarantine/train-00000.jsonl   what could not be kept, with the reason
      _parts/train-00000/00003.json   finished parts of a shard under way, where its rows are dear; gone with the record
      _decisions/               what people decided about a dmcr/ output (``dmcr/decision_log.py``)
      record.json               last: the output is finished, and this is what made it

Nothing is ever locked. Two runs of one recipe at once are safe: they have the same fingerprint, so they make the same
shards; the first to create a marker (and at last the record) wins and the other says so. A run killed at any moment leaves
whole shards with markers, which the next run keeps, and at most whole shards without one, which it adopts or makes again.

A second run that is killed after the first has finished may leave a part in ``_parts`` of a finished output. Nothing reads it, it
weighs a few kilobytes, and it may be deleted; looking for it would be a request for every finished output of every run.
"""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bioie_ray.artifacts.fingerprint import differences, fingerprint
from bioie_ray.artifacts.store import Store, StoreAddress, StoreError, open_store

RECORD = "record.json"
CLAIM = "_claim.json"
MARKERS = "_markers"
QUARANTINE = "_quarantine"
PARTS = "_parts"
NOTE = "_progress.txt"
# What people decided about an output's rows: nothing can make it again.
DECISIONS = "_decisions"
_FOREIGN_SHOWN = 3


class DriftError(ValueError):
    """The version exists already and was made from something else; the message prints the difference."""


class IncompleteError(ValueError):
    """An output that is needed is not finished."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What is known of a finished shard. ``counts`` are the worker's; ``bytes`` and ``sha256`` those of the data."""

    shard: str
    rows: int
    bytes: int
    sha256: str
    counts: Mapping[str, int]

    def to_json(self) -> builtins.bytes:
        """The marker as it is stored."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: builtins.bytes) -> Marker:
        """The inverse of ``to_json``."""
        return cls(**json.loads(data))


@dataclass(frozen=True)
class Output:
    """An output by address and key; ``payload`` is what its fingerprint covers. Picklable."""

    address: StoreAddress
    key: str
    payload: Mapping[str, Any] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        """The open store (cached per process)."""
        return open_store(self.address)

    @property
    def fingerprint(self) -> str:
        """Digest of the payload."""
        return fingerprint(self.payload)

    @property
    def location(self) -> str:
        """The output's folder or URL, for people."""
        return self.store.describe(self.key)

    def claim(self) -> None:
        """Take the version for this fingerprint, or join the run that has the same one.

        Raises:
            DriftError: the version belongs to another fingerprint; the message says which settings differ.
            StoreError: files of somebody else lie there.
        """
        self._check_no_foreign_files()
        claim = json.dumps({"fingerprint": self.fingerprint, "payload": self.payload}, sort_keys=True, indent=1).encode()
        if not self.store.create(f"{self.key}/{CLAIM}", claim):
            self.check_drift()
            return
        if self.store.keys(f"{self.key}/{MARKERS}"):
            return  # a run of the same fingerprint is at it already, and its quarantine is not ours to delete
        for leftover in self.store.keys(f"{self.key}/{QUARANTINE}"):  # of a source that was discarded
            self.store.delete(leftover)

    def discard(self) -> None:
        """Give the version up: shards, markers and at last the claim go; the quarantine stays, it says what was wrong.

        Nothing else in the folder is touched, whatever it is.
        """
        here = f"{self.key}/"
        names = [key.removeprefix(here) for key in self.store.keys(self.key)]
        ours = [
            name
            for name in names
            if name.startswith((f"{MARKERS}/", f"{PARTS}/")) or name == NOTE or ("/" not in name and name.endswith(".parquet"))
        ]
        for name in [*ours, CLAIM]:
            self.store.delete(here + name)

    def _check_no_foreign_files(self) -> None:
        """A folder without a claim holds nothing, or what ``discard`` left: else it is not an output's but somebody's own."""
        claim, here = f"{self.key}/{CLAIM}", f"{self.key}/"
        if self.store.exists(claim):
            return
        names = [key.removeprefix(here) for key in self.store.keys(self.key)]
        foreign = [name for name in names if name != NOTE and not name.startswith(f"{QUARANTINE}/")]
        if foreign and not self.store.exists(claim):  # another run may have claimed it and gone to work meanwhile
            shown = ", ".join(foreign[:_FOREIGN_SHOWN]) + (", ..." if len(foreign) > _FOREIGN_SHOWN else "")
            raise StoreError(f"{self.location} holds files that are not of an output ({shown}); give the output a folder of its own")

    def check_drift(self) -> None:
        """Raise DriftError when the version was claimed for another fingerprint."""
        try:
            theirs = json.loads(self.store.read(f"{self.key}/{CLAIM}"))
        except FileNotFoundError:
            return
        if theirs["fingerprint"] != self.fingerprint:
            changed = "\n".join(f"  {line}" for line in differences(self.payload, theirs["payload"]))
            advice = "Give the new output another version (--set version=..., or corpus_version= for a corpus)"
            if self.store.keys(f"{self.key}/{DECISIONS}"):
                advice += (
                    ". Do not delete that folder: people's decisions are in it, and nothing can make them again. What was decided about an answer "
                    f"that the new output has too can be taken over: bioie review {self.location} --export FILE, and --import FILE into the new one."
                )
            else:
                advice += ", or delete that folder."
            raise DriftError(f"{self.location} exists and was made from something else:\n{changed}\n{advice}")

    def is_finished(self) -> bool:
        """Whether the record is there; a version of another fingerprint raises DriftError."""
        self.check_drift()
        return self.store.exists(f"{self.key}/{RECORD}")

    def markers(self) -> dict[str, Marker]:
        """The finished shards, by name."""
        keys = self.store.keys(f"{self.key}/{MARKERS}")
        found = (Marker.from_json(self.store.read(key)) for key in keys)
        return {marker.shard: marker for marker in found}

    def commit(self, shard: str, table: pa.Table, counts: Mapping[str, int], quarantined: Sequence[Mapping[str, Any]] = ()) -> Marker:
        """Write a shard, then its quarantine, then its marker; a shard somebody else finished first is theirs.

        Raises:
            StoreError: no space, no rights, no connection; nothing then looks finished.
        """
        data = to_parquet(table)
        key = self.shard_key(shard)
        if not self.store.create(key, data):
            data = self._adopt(key, data)
        if quarantined:
            lines = "".join(json.dumps(dict(q), ensure_ascii=False, sort_keys=True) + "\n" for q in quarantined)
            self.store.write(f"{self.key}/{QUARANTINE}/{shard}.jsonl", lines.encode())
        all_counts = {**counts, "quarantined": len(quarantined)}
        marker = Marker(shard, table.num_rows, len(data), hashlib.sha256(data).hexdigest(), all_counts)
        marker_key = f"{self.key}/{MARKERS}/{shard}.json"
        if not self.store.create(marker_key, marker.to_json()):
            return Marker.from_json(self.store.read(marker_key))
        return marker

    def _adopt(self, key: str, ours: bytes) -> bytes:
        """The whole shard that a killed or parallel run of this fingerprint left; ours where theirs is unreadable."""
        theirs = self.store.read(key)
        if theirs == ours:
            return ours
        try:
            pq.read_metadata(pa.BufferReader(theirs))
        except pa.ArrowInvalid:  # a disk that lost power after the rename: the name is there, the bytes are not
            self.store.write(key, ours)
            return ours
        return theirs

    def put_part(self, shard: str, part: int, data: bytes) -> bytes:
        """Keep a part of a shard under way; the bytes that count: those of whoever was first."""
        key = f"{self.key}/{PARTS}/{shard}/{part:05d}.json"
        if not self.store.create(key, data):
            with suppress(FileNotFoundError):  # another run of this fingerprint has just finished the shard, and that one counts
                return self.store.read(key)
        return data

    def parts(self, shard: str) -> dict[int, bytes]:
        """The parts of a shard that are there, by number."""
        found = {}
        for key in self.store.keys(f"{self.key}/{PARTS}/{shard}"):
            with suppress(FileNotFoundError):  # another run of this fingerprint has just finished the shard
                found[int(key.rpartition("/")[2].removesuffix(".json"))] = self.store.read(key)
        return found

    def shards_with_parts(self) -> list[str]:
        """Names of the shards of which parts are there."""
        return sorted({key.split("/")[-2] for key in self.store.keys(f"{self.key}/{PARTS}")})

    def drop_parts(self, shard: str = "") -> None:
        """Remove the parts of a committed shard, or of all."""
        for key in self.store.keys(f"{self.key}/{PARTS}/{shard}".rstrip("/")):
            self.store.delete(key)

    def shard_key(self, shard: str) -> str:
        """Key of a shard's data."""
        return f"{self.key}/{shard}.parquet"

    def read_shard(self, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A shard's table, or some of its columns."""
        data = pa.BufferReader(self.store.read(self.shard_key(shard)))
        return pq.read_table(data, columns=list(columns) if columns is not None else None, use_threads=False)

    def shards(self, splits: Iterable[str] | None = None) -> list[str]:
        """Names of the shards in a finished output's record, sorted; those of some splits when asked.

        Raises:
            IncompleteError: the output is not finished.
        """
        names = [str(shard["shard"]) for shard in self.record()["shards"]]
        wanted = None if splits is None else set(splits)
        return sorted(name for name in names if wanted is None or name.rpartition("-")[0] in wanted)

    def record(self) -> dict[str, Any]:
        """The record of a finished output.

        Raises:
            IncompleteError: there is none, and the message says how many shards are done; or it is damaged.
        """
        try:
            record: dict[str, Any] = json.loads(self.store.read(f"{self.key}/{RECORD}"))
        except FileNotFoundError:
            done = len(self.store.keys(f"{self.key}/{MARKERS}"))
            raise IncompleteError(
                f"{self.location} is not finished ({done} shards done, no {RECORD}); run the job that makes it again, it goes on where it stopped"
            ) from None
        except ValueError:
            raise IncompleteError(
                f"{self.location}: its {RECORD} is no JSON: it was changed by hand or is damaged; make it again"
            ) from None
        return record

    def put_file(self, name: str, data: bytes) -> dict[str, Any]:
        """Write a file that is not a shard (a model's weights, ``best_examples.json``); its entry for the record.

        A file that another run of this fingerprint has put is kept, so that two runs never mix their files.
        """
        if not self.store.create(f"{self.key}/{name}", data):
            data = self.store.read(f"{self.key}/{name}")
        return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def note(self, text: str) -> None:
        """Say how far a long unit is; the driver, wherever it runs, reads it with ``read_note``."""
        self.store.write(f"{self.key}/{NOTE}", text.encode())

    def read_note(self) -> str:
        """The last note, empty when there is none."""
        try:
            return self.store.read(f"{self.key}/{NOTE}").decode()
        except FileNotFoundError:
            return ""

    def finish(self, record: Mapping[str, Any]) -> bool:
        """Create the record; False when another run of the same fingerprint finished first."""
        data = json.dumps(record, ensure_ascii=False, indent=1, sort_keys=False).encode()
        key = f"{self.key}/{RECORD}"
        # Equal to the last byte, times included: it is ours, put by a try whose answer a proxy lost.
        return self.store.create(key, data) or self.store.read(key) == data


def to_parquet(table: pa.Table) -> bytes:
    """Parquet bytes that depend on the table alone: no timestamps, one row group layout, zstd."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_index=False, store_schema=True)
    return bytes(sink.getvalue())
