"""From a source to shards, as a stream: memory is bounded by one shard, whatever the size of the corpus.

Of a document already written only its id and a 16-byte hash are kept, which is enough to tell a repeated document
from two different ones under one id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from bioie_ray.config.steps import PrepareSettings
from bioie_ray.corpora.catalog import read_split, splits_of
from bioie_ray.corpora.checks import DocumentError, check
from bioie_ray.corpora.document import Document, to_table
from bioie_ray.corpora.reading import Read, Reader, Rejected, SourceError, SourceFile

# A shard also ends when its texts reach this many characters, so that long documents do not fill the memory
# (128 documents of 2 million characters would hold 256 MB of text alone). A function of the source, like the count.
MAX_SHARD_CHARS: Final = 16_000_000
_REASONS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """What a split or a part of it holds. ``documents`` are the kept ones; ``relations`` the counted ones.

    ``repaired`` documents are kept and carry a note; ``duplicates`` were left out as identical to one kept before.
    """

    documents: int = 0
    mentions: int = 0
    relations: int = 0
    quarantined: int = 0
    repaired: int = 0
    duplicates: int = 0

    def __add__(self, other: SplitCounts) -> SplitCounts:
        return SplitCounts(
            *(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)),
        )

    def as_dict(self) -> dict[str, int]:
        """The counts by name, as the record has them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class PreparedShard:
    """``name`` is ``<split>-<index>``; ``table`` has ``DOCUMENT_SCHEMA``; ``rejected`` came between its documents."""

    name: str
    split: str
    table: pa.Table
    rejected: tuple[Rejected, ...]
    counts: SplitCounts


@dataclass(slots=True)
class SeenDocuments:
    """Ids of the documents kept so far, each with its split and the hash of its content.

    Ids are unique in train, dev and test together. ``test_ner`` is the test set of a task of its own, so its ids are
    compared among themselves only.
    """

    _by_id: dict[tuple[bool, str], tuple[str, bytes]] = field(default_factory=dict)

    def verdict(self, document: Document) -> tuple[str | None, bool]:
        """``(split kept in, same content)`` of an earlier document with this id; remembers a new one: ``(None, False)``."""
        digest = content_hash(document)
        key = (document.split == "test_ner", document.id)
        known = self._by_id.get(key)
        if known is None:
            self._by_id[key] = (document.split, digest)
            return None, False
        return known[0], known[1] == digest


def content_hash(document: Document) -> bytes:
    """16 bytes over text and annotations; not over split, repairs or document attributes (which name the file)."""
    row = document.to_row()
    payload = json.dumps([row["text"], row["mentions"], row["relations"]], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(payload.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shard_name(split: str, index: int) -> str:
    """``train-00003``: the name of a corpus shard, without suffix."""
    return f"{split}-{index:05d}"


def iter_corpus(reader: Reader, files: Sequence[SourceFile], settings: PrepareSettings) -> Iterator[PreparedShard]:
    """The shards of every split in the order train, dev, test, test_ner; ids are unique over all of them.

    Raises:
        SourceError: as ``iter_shards``.
    """
    seen = SeenDocuments()
    for split in splits_of(files):
        yield from iter_shards(reader, files, split, settings, seen)


def iter_shards(
    reader: Reader,
    files: Sequence[SourceFile],
    split: str,
    settings: PrepareSettings,
    seen: SeenDocuments | None = None,
) -> Iterator[PreparedShard]:
    """The shards of one split: documents in source order, ``documents_per_shard`` to a shard, rejects with their reason.

    Args:
        reader: of the corpus.
        files: of all splits, as its ``discover`` gave them.
        split: to read.
        settings: of the step.
        seen: documents of the splits before, to find an id that occurs in two of them; ``None`` for a split alone.

    Raises:
        SourceError: a file cannot be read, or the split holds nothing at all.
    """
    seen = SeenDocuments() if seen is None else seen
    shard = _Shard(split, 0)
    for item in read_split(reader, files, split):
        shard.add(_admit(item, files, settings, seen))
        if shard.is_full(settings):
            yield shard.finish()
            shard = _Shard(split, shard.index + 1)
    if shard.size:
        yield shard.finish()
    elif shard.index == 0:
        names = ", ".join(file.name for file in files if file.split == split)
        raise SourceError(f"{names}: no document in it ({reader.corpus} {split}); is the file empty or cut off?")


def summarise(counts: Iterable[tuple[str, SplitCounts]]) -> dict[str, dict[str, dict[str, int]]]:
    """``(split, counts of a shard)`` added up: ``{"splits": {split: {"documents": n, "mentions": n, ...}}}``."""
    totals: dict[str, SplitCounts] = {}
    for split, part in counts:
        totals[split] = totals.get(split, SplitCounts()) + part
    return {"splits": {split: total.as_dict() for split, total in totals.items()}}


def check_quarantine(splits: Mapping[str, Mapping[str, int]], max_share: float, rejected: Iterable[Rejected] = ()) -> None:
    """Refuse a corpus of which too much was quarantined.

    Args:
        splits: the ``splits`` of ``summarise``.
        max_share: largest tolerated share of quarantined among all documents of the source (0 to 1).
        rejected: rejects whose first reasons the message shows.

    Raises:
        SourceError: the share is larger; the message shows the sum, the first reasons and the setting.
    """
    quarantined = sum(counts["quarantined"] for counts in splits.values())
    total = quarantined + sum(counts["documents"] + counts["duplicates"] for counts in splits.values())
    if quarantined <= max_share * total:
        return
    reasons = [f"  {describe(reject)}" for _, reject in zip(range(_REASONS_SHOWN), rejected, strict=False)]
    more = [f"  and {quarantined - len(reasons)} more"] if reasons and quarantined > len(reasons) else []
    head = (
        f"{quarantined} of {total} documents quarantined ({quarantined / total:.1%}), more than the limit of "
        f"{max_share:.1%} (prepare.max_quarantined_share); mend the source, or raise the limit"
    )
    raise SourceError("\n".join([f"{head}:" if reasons else f"{head}.", *reasons, *more]))


def describe(reject: Rejected) -> str:
    """``file:line: document ID: reason``, leaving out what is not known."""
    place = f"{reject.file}:{reject.line}" if reject.line is not None else reject.file
    return f"{place}: document {reject.id}: {reject.reason}" if reject.id is not None else f"{place}: {reject.reason}"


@dataclass(frozen=True, slots=True)
class _Duplicate:
    id: str


class _Shard:
    """The shard being filled."""

    def __init__(self, split: str, index: int) -> None:
        self.split = split
        self.index = index
        self._documents: list[Document] = []
        self._rejected: list[Rejected] = []
        self._num_duplicates = 0
        self._num_chars = 0

    @property
    def size(self) -> int:
        return len(self._documents) + len(self._rejected) + self._num_duplicates

    def add(self, item: Read | _Duplicate) -> None:
        if isinstance(item, Document):
            self._documents.append(item)
            self._num_chars += len(item.text)
        elif isinstance(item, Rejected):
            self._rejected.append(item)
            self._num_chars += len(item.raw)
        else:
            self._num_duplicates += 1

    def is_full(self, settings: PrepareSettings) -> bool:
        held = len(self._documents) + len(self._rejected)
        return held >= settings.documents_per_shard or self._num_chars >= MAX_SHARD_CHARS

    def finish(self) -> PreparedShard:
        return PreparedShard(
            name=shard_name(self.split, self.index),
            split=self.split,
            table=to_table(self._documents),
            rejected=tuple(self._rejected),
            counts=SplitCounts(
                documents=len(self._documents),
                mentions=sum(len(d.mentions) for d in self._documents),
                relations=sum(r.counted for d in self._documents for r in d.relations),
                quarantined=len(self._rejected),
                repaired=sum(bool(d.repairs) for d in self._documents),
                duplicates=self._num_duplicates,
            ),
        )


def _admit(item: Read, files: Sequence[SourceFile], settings: PrepareSettings, seen: SeenDocuments) -> Read | _Duplicate:
    """The document if it may be kept, else why not. The one gate that every reader's documents pass."""
    if isinstance(item, Rejected):
        return item
    if len(item.text) > settings.max_document_chars:
        return _reject(
            item,
            files,
            f"{len(item.text):,} characters, more than the limit of {settings.max_document_chars:,} (prepare.max_document_chars)",
        )
    try:
        document = check(item)
    except DocumentError as error:
        return _reject(item, files, str(error))
    split, same = seen.verdict(document)
    if split is None:
        return document
    if same:
        return _Duplicate(document.id)
    return _reject(item, files, f"its id occurs before, in {split}, with different content")


def _reject(document: Document, files: Sequence[SourceFile], reason: str) -> Rejected:
    names = [file.name for file in files if file.split == document.split]
    file = str(document.attributes.get("file") or (names[0] if len(names) == 1 else f"{document.split} files"))
    raw = json.dumps(document.to_row(), ensure_ascii=False, sort_keys=True)
    return Rejected(file=file, line=None, id=document.id, split=document.split, reason=reason, raw=raw)
