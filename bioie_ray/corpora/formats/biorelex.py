"""BioRelEx: one JSON array of sentences (Khachatrian et al. 2019, doi 10.18653/v1/W19-5019).

An entity is a cluster: each of its names has mentions, and interactions join clusters by their index. Every mention of
every name becomes a ``Mention`` with the cluster's index as ``entity_id``; every interaction becomes a counted
``Relation`` whatever its label (1 binds, 0 may bind, -1 does not), self-interactions and repeated pairs included.
The test set was never released: the file called ``dev`` is the split ``test``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from bioie_ray.corpora.document import Argument, Document, Mention, Relation, Span
from bioie_ray.corpora.formats.discovery import visible_files
from bioie_ray.corpora.formats.json_stream import JsonRecord, iter_json_array
from bioie_ray.corpora.reading import Read, Rejected, SourceError, SourceFile

CORPUS: Final = "biorelex"
_SPLITS: Final = {"train": "train", "dev": "test"}
_SNIFFED_CHARS: Final = 65_536
T = TypeVar("T")


class BioRelExReader:
    """``train.json`` and ``dev.json``, under these or the release's names (``1.0alpha7.train.json``)."""

    corpus = CORPUS
    format = "biorelex_json"

    def discover(self, source: Path) -> Sequence[SourceFile]:
        """The JSON files with ``train`` or ``dev`` in their name that hold this corpus.

        Raises:
            SourceError: none there, or two for one split.
        """
        paths = [source] if source.is_file() else list(visible_files(source))
        files: dict[str, SourceFile] = {}
        for path in paths:
            split = _split_of(path)
            if split is None or not _is_biorelex(path):
                continue
            name = path.name if path == source else path.relative_to(source).as_posix()
            if split in files:
                raise SourceError(f"{files[split].name} and {name} are both {split}; keep one version of the release")
            files[split] = SourceFile(path, name, split)
        if not files:
            raise SourceError("looked for *train*.json and *dev*.json, arrays of records with `entities` and `interactions`")
        return [files[split] for split in _SPLITS.values() if split in files]

    def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
        """The records of one split in source order; a record of another form is ``Rejected``.

        Raises:
            SourceError: the file is no JSON array, or is cut off.
        """
        for file in files:
            if file.split == split:
                for record in iter_json_array(file.path):
                    yield _read_record(record, file)


class _MalformedError(Exception):
    """Why a record cannot be kept."""


def _split_of(path: Path) -> str | None:
    words = re.findall("[a-z]+", path.stem.lower())
    return next((split for word, split in _SPLITS.items() if word in words), None)


def _is_biorelex(path: Path) -> bool:
    """By the keys near the start; an empty or broken file is let through, so that reading it tells what is wrong."""
    if path.suffix.lower() != ".json":
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        head = stream.read(_SNIFFED_CHARS)
    return len(head.strip()) < 2 or ('"interactions"' in head or '"entities"' in head)


def _read_record(record: JsonRecord, file: SourceFile) -> Read:
    value = record.value
    name = value.get("id") if isinstance(value, dict) else None
    try:
        return _document(_typed(value, dict, "a record"), file)
    except _MalformedError as error:
        return Rejected(file.name, record.line, name if isinstance(name, str) else None, file.split, str(error), record.raw)


def _document(record: dict[str, Any], file: SourceFile) -> Document:
    text = _field(record, "text", str)
    mentions: list[Mention] = []
    clusters = []
    for index, value in enumerate(_field(record, "entities", list)):
        entity = _typed(value, dict, f"entity {index}")
        mentions += _mentions(entity, index, text, first=len(mentions))
        clusters.append(_others(entity, "names"))
    relations = [
        _relation(_typed(value, dict, f"interaction {index}"), index, num_entities=len(clusters))
        for index, value in enumerate(_field(record, "interactions", list))
    ]
    others = _others(record, "id", "text", "entities", "interactions")
    return Document(
        id=_field(record, "id", str),
        corpus=CORPUS,
        split=file.split,
        text=text,
        mentions=tuple(mentions),
        relations=tuple(relations),
        attributes={**others, "entities": clusters, "file": file.name},
    )


def _mentions(entity: dict[str, Any], index: int, text: str, first: int) -> Iterator[Mention]:
    where = f"entity {index}"
    concept_ids = _concept_ids(entity.get("grounding"), where)
    number = first
    for name, value in _field(entity, "names", dict, where).items():
        cluster_name = _typed(value, dict, f"{where}, name {name!r}")
        for offsets in _field(cluster_name, "mentions", list, f"{where}, name {name!r}"):
            start, end = _pair(offsets, f"{where}, name {name!r}: offsets")
            if not 0 <= start < end <= len(text):
                raise _MalformedError(f"{where}: {name!r} at {start}-{end} is not inside the text of {len(text)} characters")
            if text[start:end] != name:
                raise _MalformedError(f"{where}: {name!r} at {start}-{end}, but the text has {text[start:end]!r} there")
            yield Mention(
                id=f"m{number}",
                text=name,
                type=_field(entity, "label", str, where),
                spans=(Span(start, end),),
                concept_ids=concept_ids,
                entity_id=str(index),
                attributes=_others(cluster_name, "mentions"),
            )
            number += 1


def _relation(interaction: dict[str, Any], index: int, num_entities: int) -> Relation:
    where = f"interaction {index}"
    participants = _pair(_field(interaction, "participants", list, where), f"{where}: participants")
    for participant in participants:
        if not 0 <= participant < num_entities:
            raise _MalformedError(f"{where} joins entity {participant}, but there are only {num_entities} (from 0)")
    return Relation(
        id=f"r{index}",
        type=_field(interaction, "type", str, where),
        label=str(_field(interaction, "label", int, where)),
        arguments=tuple(Argument("entity", str(participant)) for participant in participants),
        attributes=_others(interaction, "participants", "type", "label"),
    )


def _concept_ids(grounding: Any, where: str) -> tuple[str, ...]:
    """``uniprot:P12931`` of the link to a database entry; the grounding itself stays in the document's attributes."""
    if grounding is None:
        return ()
    link = _typed(grounding, dict, f"{where}: grounding").get("link")
    if not isinstance(link, str) or not link.strip():
        return ()
    parts = urlsplit(link.strip())
    last = (parts.query.rpartition("=")[2] or parts.path.rstrip("/").rpartition("/")[2]).strip()
    source = grounding.get("source")
    named = isinstance(source, str) and source.strip() and "/" not in source
    return (f"{source.strip() if named else parts.netloc}:{last}",) if last else (link.strip(),)


def _field(record: dict[str, Any], key: str, kind: type[T], where: str = "the record") -> T:
    if key not in record:
        raise _MalformedError(f"{where} has no `{key}`")
    return _typed(record[key], kind, f"{where}: `{key}`")


def _typed(value: Any, kind: type[T], where: str) -> T:
    # bool is a subclass of int, but `true` is no offset and no label.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _MalformedError(f"{where} is {json.dumps(value)[:60]}, not of type {kind.__name__}")
    return value


def _pair(value: Any, where: str) -> tuple[int, int]:
    numbers = _typed(value, list, where)
    if len(numbers) != 2:
        raise _MalformedError(f"{where} has {len(numbers)} numbers, not 2")
    return _typed(numbers[0], int, where), _typed(numbers[1], int, where)


def _others(record: dict[str, Any], *known: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in known}
