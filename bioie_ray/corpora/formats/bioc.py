"""BioC XML (Comeau et al. 2013, doi 10.1093/database/bat064): BC5CDR's twins, NLM-Gene's release, NCBI Disease.

Passages are put where their offsets say, the gap between two filled with spaces; offsets are half-open and in code points
of the document. BC5CDR's twins hold each composite mention once whole (infon ``CompositeRole`` ``CompositeMention``) and
again as individual mentions, some with two ``<location>``s; both are kept, so counts exceed PubTator's. All infons are
kept in ``attributes``, as are annotations without a place in the text (document attribute ``unplaced_annotations``).

NLM-Gene's release has one file a document and ``Pmidlist.Train.txt`` and ``Pmidlist.Test.txt`` that name their splits.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any, Final

from bioie_ray.corpora.document import Argument, Document, Mention, Relation, Repair, Section, Span
from bioie_ray.corpora.formats.bioc_passages import PlacedText, place_passages
from bioie_ray.corpora.formats.bioc_xml import XmlDocument, stream_documents
from bioie_ray.corpora.formats.discovery import describe, find_files, read_head, source_file, visible_files
from bioie_ray.corpora.formats.lines import numbered_lines
from bioie_ray.corpora.formats.pubmed import PUBMED_CORPORA, PubMedCorpus, corpus_of_types
from bioie_ray.corpora.formats.settling import MalformedError, Origin, settle
from bioie_ray.corpora.reading import Read, Rejected, SourceError, SourceFile
from bioie_ray.corpora.repair import clean_ids, convert_offsets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

_ID_INFONS: Final = ("MESH", "NCBI Gene identifier", "NCBI Gene", "OMIM", "identifier")
_SPLIT_LISTS: Final = {"pmidlist.train.txt": "train", "pmidlist.dev.txt": "dev", "pmidlist.test.txt": "test"}
_DOCUMENT_FILE: Final = re.compile(r"([^.]+)\.bioc\.xml|([^.]+)\.xml", re.IGNORECASE)
_TYPE_IN_HEAD: Final = re.compile(r"key\s*=\s*[\"']type[\"']\s*>([^<]+)<")
_PASSAGE_TYPES: Final = frozenset({"title", "abstract"})
_SNIFFED_FILES: Final = 8
_NAMES_SHOWN: Final = 5


class BioCReader:
    """The BioC XML files of one of the three corpora, whole or in part, nested under any folder."""

    format = "bioc"

    def __init__(self, corpus: str) -> None:
        self.corpus = corpus
        self._own = PUBMED_CORPORA[corpus]

    def discover(self, source: Path) -> Sequence[SourceFile]:
        """The files of the release by their official names or split lists, else ``.xml`` files named after a split.

        Split lists are named too, as they decide what is read.

        Raises:
            SourceError: nothing there, a file that is empty, of another format or of another corpus, or a document
                that a split list names and that is not there.
        """
        lists = _split_lists(source) if source.is_dir() else []
        if not lists:
            return find_files(source, self._own.bioc_names, (".xml",), self._accept, self._own.bioc_files)
        files = _listed_files(source, lists)
        self._judge(files[0].path, set().union(*(_types_in_head(file.path) for file in files[:_SNIFFED_FILES])))
        return [*(source_file(source, path, split) for split, path in lists), *files]

    def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
        """The documents of one split in source order.

        Raises:
            SourceError: a file is not well-formed. With split lists, where a file is a document, it is rejected instead.
        """
        one_a_file = any(_is_split_list(file.path) for file in files)
        for file in files:
            if file.split != split or _is_split_list(file.path):
                continue
            try:
                for found in stream_documents(file.path):
                    yield _read_document(found, file, self._own)
            except SourceError as error:
                if not one_a_file:
                    raise
                raw = file.path.read_bytes().decode("utf-8", errors="backslashreplace")
                yield Rejected(file.name, None, _document_name(file.path), split, str(error).removeprefix(f"{file.path}: "), raw)

    def _accept(self, path: Path) -> None:
        self._judge(path, _types_in_head(path))

    def _judge(self, path: Path, types: AbstractSet[str]) -> None:
        if types and not types & self._own.types:
            other = corpus_of_types(types)
            hint = f"it is {other}: run `bioie prepare {other}`" if other else "it is a corpus not known here"
            raise SourceError(f"{path}: its mention types are {', '.join(sorted(types))}, not {self.corpus}'s; {hint}")


def _types_in_head(path: Path) -> AbstractSet[str]:
    """The mention types in the beginning of a BioC file."""
    head = read_head(path)
    if b"<collection" not in head:
        raise SourceError(f"{path}: not BioC XML (no <collection>); it looks like {describe(head)}")
    return {name.strip() for name in _TYPE_IN_HEAD.findall(head.decode("utf-8", errors="replace"))} - _PASSAGE_TYPES


def _is_split_list(path: Path) -> bool:
    return path.name.lower() in _SPLIT_LISTS


def _split_lists(source: Path) -> list[tuple[str, Path]]:
    return [(_SPLIT_LISTS[path.name.lower()], path) for path in visible_files(source) if _is_split_list(path)]


def _document_name(path: Path) -> str | None:
    match = _DOCUMENT_FILE.fullmatch(path.name)
    return None if match is None else match[1] or match[2]


def _listed_files(source: Path, lists: Sequence[tuple[str, Path]]) -> list[SourceFile]:
    # FINAL holds the agreed annotations; where a document lies in another folder too, FINAL comes last and wins.
    paths = sorted(visible_files(source), key=lambda path: path.parent.name.upper() == "FINAL")
    by_name = {name: path for path in paths if (name := _document_name(path)) is not None}
    files: dict[str, SourceFile] = {}
    for split, path in lists:
        names = [line.text.strip() for line in numbered_lines(path) if line.text.strip()]
        missing = [name for name in names if name not in by_name]
        if missing or not names:
            shown = ", ".join(missing[:_NAMES_SHOWN]) + (", ..." if len(missing) > _NAMES_SHOWN else "")
            what = f"names {len(missing)} documents without a file ID.BioC.XML: {shown}" if names else "is empty"
            raise SourceError(f"{path} {what}; unpack the release again, or take them off the list")
        for name in names:
            file = source_file(source, by_name[name], split)
            if files.setdefault(name, file).split != split:
                raise SourceError(f"{path}: {name} is on the list of {files[name].split} as well; take it off one")
    return list(files.values())


def _read_document(found: XmlDocument, file: SourceFile, corpus: PubMedCorpus) -> Read:
    lines: dict[str, int] = {}
    origin = Origin(file, found.line, lambda: ET.tostring(found.element, encoding="unicode"), lines)
    document_id = (found.element.findtext("id") or "").strip()
    try:
        document = _document(document_id, found, file, corpus, lines)
    except MalformedError as error:
        return origin.reject(document_id or None, error.reason, error.line)
    return settle(document, origin)


def _document(id: str, found: XmlDocument, file: SourceFile, corpus: PubMedCorpus, lines: dict[str, int]) -> Document:
    if not id:
        raise MalformedError("the document has no id", found.line)
    placed = place_passages(found.element, found.line)
    if not placed.text.strip():
        raise MalformedError("the document has no text", found.line)
    reader = _Annotations(corpus, placed)
    for element, line in zip(found.element.iter("annotation"), found.annotation_lines, strict=True):
        reader.add(element, line)
    lines.update(reader.lines)
    mentions, repairs = reader.finish()
    attributes: dict[str, Any] = {"file": file.name, "line": found.line}
    if infons := _infons(found.element):
        attributes["infons"] = infons
    if reader.unplaced:
        attributes["unplaced_annotations"] = reader.unplaced
    relations = [_relation(element, i, reader.ids, found.line) for i, element in enumerate(found.element.iter("relation"))]
    return Document(
        id=id,
        corpus=corpus.name,
        split=file.split,
        text=placed.text,
        sections=tuple(Section(p.name, p.start, p.start + len(p.text)) for p in placed.passages),
        mentions=mentions,
        relations=tuple(relations),
        repairs=(*placed.repairs, *repairs),
        attributes=attributes,
    )


class _Annotations:
    """The annotations of one document on their way to mentions; ``ids`` maps the source's ids to mention ids."""

    def __init__(self, corpus: PubMedCorpus, placed: PlacedText) -> None:
        self.ids: dict[str, str] = {}
        self.lines: dict[str, int] = {}
        self.unplaced: list[dict[str, Any]] = []
        self._corpus = corpus
        self._placed = placed
        self._by_passage: dict[int, list[Mention]] = {}
        self._repairs: list[Repair] = []

    def add(self, element: ET.Element, line: int) -> None:
        infons, text = _infons(element), element.findtext("text") or ""
        source_id = element.get("id", "")
        locations = [_location(location, line) for location in element.findall("location")]
        if not any(length for _, length in locations):
            # NLM-Gene marks a document's star genes without a place; nothing of the source is thrown away.
            self.unplaced.append({"id": source_id, "text": text, "infons": infons})
            return
        mention_id = f"m{len(self.lines)}"
        self.lines[mention_id] = line
        self.ids.setdefault(source_id, mention_id)
        index = self._placed.passage_at(locations[0][0])
        offset = self._placed.passages[index].offset
        column = next((infons[key] for key in _ID_INFONS if key in infons), "")
        concept_ids, tidied = clean_ids(column, self._corpus.id_separators, mention_id)
        self._repairs += tidied
        mention = Mention(
            id=mention_id,
            text=text,
            type=infons.get("type", ""),
            spans=tuple(Span(start - offset, start - offset + length) for start, length in locations),
            concept_ids=concept_ids,
            attributes={"source_id": source_id, "infons": infons},
        )
        self._by_passage.setdefault(index, []).append(mention)

    def finish(self) -> tuple[tuple[Mention, ...], tuple[Repair, ...]]:
        """Mentions with document offsets in source order; offsets are counted anew in each passage first."""
        mentions = []
        for index, found in self._by_passage.items():
            passage = self._placed.passages[index]
            converted, repairs = convert_offsets(passage.text, found)
            self._repairs += repairs
            mentions += [_moved(mention, passage.start) for mention in converted]
        mentions.sort(key=lambda mention: int(mention.id[1:]))
        return tuple(mentions), tuple(self._repairs)


def _moved(mention: Mention, start: int) -> Mention:
    spans = tuple(Span(span.start + start, span.end + start) for span in mention.spans)
    return Mention(mention.id, mention.text, mention.type, spans, mention.concept_ids, None, mention.attributes)


def _location(element: ET.Element, line: int) -> tuple[int, int]:
    offset, length = element.get("offset", ""), element.get("length", "")
    if not re.fullmatch(r"[0-9]{1,12}", offset) or not re.fullmatch(r"[0-9]{1,12}", length):
        raise MalformedError(f"<location offset={offset!r} length={length!r}>: not two numbers", line)
    return int(offset), int(length)


def _relation(element: ET.Element, index: int, ids: Mapping[str, str], line: int) -> Relation:
    """BC5CDR names the two concepts in infons; other files join annotations by ``<node refid role>``."""
    infons = _infons(element)
    kind = infons.get("relation") or infons.get("type") or "relation"
    nodes = [(node.get("refid", ""), node.get("role", "")) for node in element.findall("node")]
    unknown = [refid for refid, _ in nodes if refid not in ids]
    if unknown:
        raise MalformedError(f"relation {element.get('id')!r} joins annotation {unknown[0]!r}, which is not there", line)
    arguments = [Argument("mention", ids[refid]) for refid, _ in nodes]
    if not arguments:
        arguments = [Argument("concept", infons[key].strip()) for key in ("Chemical", "Disease") if key in infons]
    attributes: dict[str, Any] = {"source_id": element.get("id", ""), "infons": infons}
    if nodes:
        attributes["roles"] = [role for _, role in nodes]
    return Relation(f"r{index}", kind, kind, tuple(arguments), attributes=attributes)


def _infons(element: ET.Element) -> dict[str, str]:
    return {infon.get("key", ""): infon.text or "" for infon in element.findall("infon")}
