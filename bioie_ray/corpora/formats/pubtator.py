"""PubTator: BC5CDR, NCBI Disease and NLM-Gene as title, abstract and tab-separated annotations.

A document is ``PMID|t|title``, ``PMID|a|abstract``, then lines ``PMID start end mention type [ids [individual
mentions]]`` and, where there are relations, ``PMID type id id``; a blank line ends it. Offsets are half-open, in code
points, into title + one separator + abstract; here the separator is a space, as in the corpora's BioC twins.

Kept of the source beside the common columns: the individual mentions of a composite one (``individual_mentions``), an
id column that the concept ids do not give back (``id_column``), and any further column (``more_columns``).

The ``bioc`` package reads PubTator too. It loses the seventh column, stops the whole file at the first bad line, and
knows no line numbers; hence this reader.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from bioie_ray.corpora.document import Argument, Document, Mention, Relation, Repair, Section, Span
from bioie_ray.corpora.formats.discovery import describe, find_files, read_head
from bioie_ray.corpora.formats.lines import Line, cut_off, numbered_lines
from bioie_ray.corpora.formats.pubmed import PUBMED_CORPORA, PubMedCorpus, corpus_of_types
from bioie_ray.corpora.formats.settling import MalformedError, Origin, settle
from bioie_ray.corpora.reading import Read, Rejected, SourceError, SourceFile
from bioie_ray.corpora.repair import clean_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SEPARATOR: Final = " "
_TEXT_LINE: Final = re.compile(r"([^|\t]*)\|([ta])\|(.*)", re.DOTALL)
_TITLE_IN_HEAD: Final = re.compile(rb"(?m)^(\xef\xbb\xbf)?[^|\t\n]+\|t\|")
_TYPE_IN_HEAD: Final = re.compile(r"(?m)^[^\t\n|]+\t\d+\t\d+\t[^\t\n]*\t([^\t\r\n]+)")
# PMID, start, end, mention, type; then ids and individual mentions.
_MIN_MENTION_COLUMNS: Final = 5
_MAX_MENTION_COLUMNS: Final = 7
_RELATION_COLUMNS: Final = 4


class PubTatorReader:
    """The PubTator files of one of the three corpora, whole or in part, nested under any folder."""

    format = "pubtator"

    def __init__(self, corpus: str) -> None:
        self.corpus = corpus
        self._own = PUBMED_CORPORA[corpus]

    def discover(self, source: Path) -> Sequence[SourceFile]:
        """The files of the release by their official names, else ``.txt`` and ``.pubtator`` files named after a split.

        Raises:
            SourceError: nothing there, or a file that is empty, of another format or of another corpus.
        """
        return find_files(source, self._own.pubtator_names, (".txt", ".pubtator"), self._accept, self._own.pubtator_files)

    def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
        """The documents of one split in source order; a document with a bad line is rejected, the others go on.

        Raises:
            SourceError: the file is cut off: it ends without a line break in a document that cannot be read. How many
                documents came after it nobody knows, so that it is not one document's quarantine.
        """
        for file in files:
            if file.split == split:
                for block in _blocks(numbered_lines(file.path)):
                    read = _read_block(block, file, self._own)
                    if isinstance(read, Rejected) and not block[-1].ended:
                        raise SourceError(cut_off(file.path, read.line, f"document {read.id}: {read.reason}"))
                    yield read

    def _accept(self, path: Path) -> None:
        head = read_head(path)
        if not _TITLE_IN_HEAD.search(head):
            raise SourceError(f"{path}: not PubTator (no line `PMID|t|title`); it looks like {describe(head)}")
        types = set(_TYPE_IN_HEAD.findall(head.decode("utf-8", errors="replace")))
        if types and not types & self._own.types:
            other = corpus_of_types(types)
            hint = f"it is {other}: run `bioie prepare {other}`" if other else "it is a corpus not known here"
            raise SourceError(f"{path}: its mention types are {', '.join(sorted(types))}, not {self.corpus}'s; {hint}")


def _blocks(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Lines up to a blank one, or to the next title where the blank one is missing."""
    block: list[Line] = []
    for line in lines:
        starts = (match := _TEXT_LINE.match(line.text)) is not None and match[2] == "t"
        if block and (line.is_blank or starts):
            yield block
            block = []
        if not line.is_blank:
            block.append(line)
    if block:
        yield block


def _read_block(block: Sequence[Line], file: SourceFile, corpus: PubMedCorpus) -> Read:
    lines: dict[str, int] = {}
    origin = Origin(file, block[0].number, lambda: "\n".join(line.text for line in block), lines)
    try:
        document = _document(block, file, corpus, lines)
    except MalformedError as error:
        return origin.reject(_id_of(block[0]), error.reason, error.line)
    return settle(document, origin)


def _document(block: Sequence[Line], file: SourceFile, corpus: PubMedCorpus, lines: dict[str, int]) -> Document:
    for line in block:
        if line.problem is not None:
            raise MalformedError(line.problem, line.number)
    document_id, title = _text_line(block[0], "t", None)
    if len(block) == 1:
        raise MalformedError("the title has no abstract line after it; is the file cut off?", block[0].number)
    _, abstract = _text_line(block[1], "a", document_id)
    if len(block) == 2 and not block[1].ended:
        raise MalformedError("the file ends within the abstract, without a line break; is it cut off?", block[1].number)
    if not title and not abstract:
        raise MalformedError("title and abstract are empty", block[0].number)
    mentions: list[Mention] = []
    relations: list[Relation] = []
    repairs: list[Repair] = []
    for line in block[2:]:
        columns = line.text.split("\t")
        if columns[0] != document_id:
            raise MalformedError(f"the line is of {columns[0]!r}, not of {document_id}", line.number)
        if len(columns) >= _RELATION_COLUMNS and not _is_number(columns[1]) and not _is_number(columns[2]):
            relations.append(_relation(columns, len(relations)))
        else:
            mention_id = f"m{len(mentions)}"
            lines[mention_id] = line.number
            mentions.append(_mention(columns, line.number, mention_id, corpus, repairs))
    start = len(title) + len(SEPARATOR)
    return Document(
        id=document_id,
        corpus=corpus.name,
        split=file.split,
        text=title + SEPARATOR + abstract,
        sections=(Section("title", 0, len(title)), Section("abstract", start, start + len(abstract))),
        mentions=tuple(mentions),
        relations=tuple(relations),
        repairs=tuple(repairs),
        attributes={"file": file.name, "line": block[0].number},
    )


def _text_line(line: Line, part: str, id: str | None) -> tuple[str, str]:
    match = _TEXT_LINE.match(line.text)
    name = {"t": "title", "a": "abstract"}[part]
    if match is None or match[2] != part:
        raise MalformedError(f"expected the {name} line `PMID|{part}|...`", line.number)
    if not match[1].strip():
        raise MalformedError(f"the {name} line has no document id", line.number)
    if id is not None and match[1] != id:
        raise MalformedError(f"the {name} line is of {match[1]!r}, not of {id}", line.number)
    return match[1], match[3]


def _mention(columns: Sequence[str], number: int, mention_id: str, corpus: PubMedCorpus, repairs: list[Repair]) -> Mention:
    if len(columns) < _MIN_MENTION_COLUMNS:
        raise MalformedError(f"{len(columns)} columns, where a mention has 5 to 7 and a relation 4", number)
    if not (_is_number(columns[1]) and _is_number(columns[2])):
        raise MalformedError(f"the offsets {columns[1]!r} and {columns[2]!r} are not numbers", number)
    column = columns[5] if len(columns) > _MIN_MENTION_COLUMNS else ""
    concept_ids, tidied = clean_ids(column, corpus.id_separators, mention_id)
    repairs += tidied
    attributes: dict[str, Any] = {}
    if column != "|".join(concept_ids):
        attributes["id_column"] = column
    if len(columns) >= _MAX_MENTION_COLUMNS:
        attributes["individual_mentions"] = columns[6].split("|") if columns[6] else []
    if len(columns) > _MAX_MENTION_COLUMNS:
        attributes["more_columns"] = list(columns[_MAX_MENTION_COLUMNS:])
    return Mention(
        id=mention_id,
        text=columns[3],
        type=columns[4],
        spans=(Span(int(columns[1]), int(columns[2])),),
        concept_ids=concept_ids,
        attributes=attributes,
    )


def _relation(columns: Sequence[str], index: int) -> Relation:
    more = list(columns[_RELATION_COLUMNS:])
    return Relation(
        id=f"r{index}",
        type=columns[1],
        label=columns[1],
        arguments=tuple(Argument("concept", column.strip()) for column in columns[2:_RELATION_COLUMNS]),
        attributes={"more_columns": more} if more else {},
    )


def _is_number(column: str) -> bool:
    # No document has 10^12 characters; int() of an endless run of digits would fail.
    return column.isascii() and column.isdigit() and len(column) <= 12


def _id_of(line: Line) -> str | None:
    match = re.match(r"([^|\t]+)[|\t]", line.text)
    return match[1] if match else None
