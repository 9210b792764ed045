"""What a reader of a source format gives: documents one at a time, and what it could not read with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bioie_ray.corpora.document import Document


class SourceError(ValueError):
    """A source that cannot be read at all; the message names the file, the line or id, and what to do."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document that could not be kept: it goes to quarantine with its reason, and the others go on.

    ``line`` is 1-based, ``None`` where the format has no lines. ``raw`` is the source text of the document, kept so
    that nothing is lost.
    """

    file: str
    line: int | None
    id: str | None
    split: str
    reason: str
    raw: str


Read = Document | Rejected


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a release and the split it belongs to; ``name`` is relative to the source folder, with ``/``."""

    path: Path
    name: str
    split: str


class Reader(Protocol):
    """One source format of one corpus.

    ``discover`` names the files it will read and nothing else (they make the fingerprint), and raises ``SourceError``
    when the folder or file is not this corpus. ``read`` yields ``Document`` or ``Rejected`` for one split, in source
    order, streaming: memory is bounded by one document (one file for formats with one document a file).
    """

    corpus: str
    format: str

    def discover(self, source: Path) -> Sequence[SourceFile]:
        """The files of the release below ``source``."""
        ...

    def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
        """The documents and rejects of one split."""
        ...
