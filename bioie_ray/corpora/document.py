"""One row a document: the form every corpus takes after ``bioie prepare``.

Offsets are half-open, counted in Unicode code points, and always into ``Document.text``; the reader of
a format converts its own convention before it builds a ``Document``. Nothing of the source is thrown away:
what has no column of its own goes into the JSON-able ``attributes`` of the document, mention or relation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

ArgumentKind = Literal["concept", "mention", "entity"]
Attributes = Mapping[str, Any]

_SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])
_ARGUMENT = pa.struct([("kind", pa.string()), ("ref", pa.string())])
DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("corpus", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("sections", pa.list_(pa.struct([("name", pa.string()), ("start", pa.int32()), ("end", pa.int32())]))),
        (
            "mentions",
            pa.list_(
                pa.struct(
                    [
                        ("id", pa.string()),
                        ("text", pa.string()),
                        ("type", pa.string()),
                        ("spans", pa.list_(_SPAN)),
                        ("concept_ids", pa.list_(pa.string())),
                        ("entity_id", pa.string()),
                        ("attributes", pa.string()),
                    ]
                )
            ),
        ),
        (
            "relations",
            pa.list_(
                pa.struct(
                    [
                        ("id", pa.string()),
                        ("type", pa.string()),
                        ("label", pa.string()),
                        ("arguments", pa.list_(_ARGUMENT)),
                        ("counted", pa.bool_()),
                        ("attributes", pa.string()),
                    ]
                )
            ),
        ),
        ("repairs", pa.list_(pa.struct([("rule", pa.string()), ("detail", pa.string())]))),
        ("attributes", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Span:
    """``text[start:end]``: half-open, code points of the document text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Section:
    """A named part of the document text (``title``, ``abstract``, a sentence id)."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mention:
    """A surface form in the text.

    ``spans`` has one entry, or several for a discontinuous mention. ``concept_ids`` is empty where the source
    gives none. ``entity_id`` is the cluster a coreferring mention belongs to (BioRelEx), else ``None``.
    """

    id: str
    text: str
    type: str
    spans: tuple[Span, ...]
    concept_ids: tuple[str, ...] = ()
    entity_id: str | None = None
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Argument:
    """What a relation joins: ``ref`` is a concept id, a mention id or an entity (cluster) id, as ``kind`` says."""

    kind: ArgumentKind
    ref: str


@dataclass(frozen=True, slots=True)
class Relation:
    """An annotated relation. ``counted`` is false for listed negatives (DDI's ``ddi="false"`` pairs)."""

    id: str
    type: str
    label: str
    arguments: tuple[Argument, ...]
    counted: bool = True
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repair:
    """A known defect of the source, mended by a documented rule (``bioie_ray.corpora.repair``)."""

    rule: str
    detail: str


@dataclass(frozen=True, slots=True)
class Document:
    """One document with its gold annotations."""

    id: str
    corpus: str
    split: str
    text: str
    sections: tuple[Section, ...] = ()
    mentions: tuple[Mention, ...] = ()
    relations: tuple[Relation, ...] = ()
    repairs: tuple[Repair, ...] = ()
    attributes: Attributes = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The row of ``DOCUMENT_SCHEMA``; attributes become JSON with sorted keys, so equal documents give equal bytes."""
        return {
            "id": self.id,
            "corpus": self.corpus,
            "split": self.split,
            "text": self.text,
            "sections": [{"name": s.name, "start": s.start, "end": s.end} for s in self.sections],
            "mentions": [
                {
                    "id": m.id,
                    "text": m.text,
                    "type": m.type,
                    "spans": [{"start": s.start, "end": s.end} for s in m.spans],
                    "concept_ids": list(m.concept_ids),
                    "entity_id": m.entity_id,
                    "attributes": _dump(m.attributes),
                }
                for m in self.mentions
            ],
            "relations": [
                {
                    "id": r.id,
                    "type": r.type,
                    "label": r.label,
                    "arguments": [{"kind": a.kind, "ref": a.ref} for a in r.arguments],
                    "counted": r.counted,
                    "attributes": _dump(r.attributes),
                }
                for r in self.relations
            ],
            "repairs": [{"rule": r.rule, "detail": r.detail} for r in self.repairs],
            "attributes": _dump(self.attributes),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Document:
        """The inverse of ``to_row``."""
        return cls(
            id=row["id"],
            corpus=row["corpus"],
            split=row["split"],
            text=row["text"],
            sections=tuple(Section(**s) for s in row["sections"]),
            mentions=tuple(
                Mention(
                    id=m["id"],
                    text=m["text"],
                    type=m["type"],
                    spans=tuple(Span(**s) for s in m["spans"]),
                    concept_ids=tuple(m["concept_ids"]),
                    entity_id=m["entity_id"],
                    attributes=json.loads(m["attributes"]),
                )
                for m in row["mentions"]
            ),
            relations=tuple(
                Relation(
                    id=r["id"],
                    type=r["type"],
                    label=r["label"],
                    arguments=tuple(Argument(**a) for a in r["arguments"]),
                    counted=r["counted"],
                    attributes=json.loads(r["attributes"]),
                )
                for r in row["relations"]
            ),
            repairs=tuple(Repair(**r) for r in row["repairs"]),
            attributes=json.loads(row["attributes"]),
        )


def to_table(documents: Iterable[Document]) -> pa.Table:
    """Documents as an Arrow table of ``DOCUMENT_SCHEMA``, in the given order."""
    return pa.Table.from_pylist([d.to_row() for d in documents], schema=DOCUMENT_SCHEMA)


def from_table(table: pa.Table) -> list[Document]:
    """The documents of a table made by ``to_table``."""
    return [Document.from_row(row) for row in table.to_pylist()]


def _dump(attributes: Attributes) -> str:
    if not attributes:  # most mentions have none; a quarter of the time of a conversion went here
        return "{}"
    return json.dumps(dict(attributes), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
