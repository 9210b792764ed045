"""DDI 2013 XML: one document a file, in ``Train`` and ``Test`` folders (Herrero-Zazo et al. 2013, doi 10.1016/j.jbi.2013.07.011).

The source counts offsets in each sentence and includes the end; a discontinuous mention is ``a-b;c-d``. The document
text is its sentences joined with one space, never stripped: many end in a line break that their offsets count.
Every listed pair becomes a relation; the ``ddi="false"`` ones are kept but not counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from bioie_ray.corpora.document import Argument, Document, Mention, Relation, Repair, Section, Span
from bioie_ray.corpora.formats.ddi_offsets import Fitted, OffsetError, fit, parse_offsets
from bioie_ray.corpora.formats.discovery import visible_files
from bioie_ray.corpora.reading import Read, Rejected, SourceError, SourceFile

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

CORPUS: Final = "ddi_corpus"
# The largest file of the release has 150 kB; one a thousand times larger is not a document of this corpus.
_MAX_FILE_BYTES: Final = 150_000_000
_SNIFFED_BYTES: Final = 4_096
_SPLITS: Final = {"train": "train", "training": "train", "test": "test", "ner": "test_ner"}
_SOURCE_FOLDERS: Final = frozenset({"drugbank", "medline"})
# "TestNER" is two words, and so is "DrugNER".
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_RELEASE_FOLDERS: Final = frozenset({"train", "test", "test for ddi extraction task", "test for drugner task"})


class DdiReader:
    """The XML release, whole or in part, nested under any folder."""

    corpus = CORPUS
    format = "ddi_xml"

    def discover(self, source: Path) -> Sequence[SourceFile]:
        """The XML files by name, each with the split that its folders tell.

        Raises:
            SourceError: no DDI file there, or one in a folder that tells no split.
        """
        paths = [source] if source.is_file() else list(visible_files(source))
        paths = [path for path in paths if _is_ddi(path)]
        if not paths:
            raise SourceError("looked for Train/ and Test/ with DrugBank/*.xml and MedLine/*.xml (<document> of <sentence>)")
        outer = [name for name in source.resolve().parts[-4:] if name.lower() in _RELEASE_FOLDERS]
        files = []
        for path in paths:
            name = path.name if path == source else path.relative_to(source).as_posix()
            split = _split_of([*outer, *name.split("/")[:-1]])
            if split is None:
                raise SourceError(f"{path}: its folders do not tell its split; put it below a folder Train or Test")
            files.append(SourceFile(path, name, split))
        return sorted(files, key=lambda file: file.name)

    def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
        """The documents of one split, sorted by file name; a file that cannot be read is one ``Rejected``."""
        for file in sorted(files, key=lambda file: file.name):
            if file.split == split:
                yield _read_file(file)


class _MalformedError(Exception):
    """Why a document cannot be kept, and the id of the element that shows it."""

    def __init__(self, reason: str, element_id: str | None = None) -> None:
        super().__init__(reason)
        self.element_id = element_id


def _is_ddi(path: Path) -> bool:
    """By its first bytes, or, for a file too broken to tell, by its place in the release: there every file is a document."""
    if path.suffix.lower() != ".xml":
        return False
    with path.open("rb") as stream:
        head = stream.read(_SNIFFED_BYTES)
    return b"<collection" not in head and (b"<document" in head or path.parent.name.lower() in _SOURCE_FOLDERS)


def _split_of(folders: Sequence[str]) -> str | None:
    words = {word.lower() for folder in folders for word in _WORDS.findall(folder)}
    found = {_SPLITS[word] for word in words if word in _SPLITS}
    if "train" in found and len(found) > 1:
        return None
    return next((split for split in ("test_ner", "test", "train") if split in found), None)


def _read_file(file: SourceFile) -> Read:
    size = file.path.stat().st_size
    if size > _MAX_FILE_BYTES:
        return _rejected(file, b"", f"{size:,} bytes: too large for one document (limit {_MAX_FILE_BYTES:,})", None, None)
    data = file.path.read_bytes()
    if not data.strip():
        return _rejected(file, data, "the file is empty", 1, None)
    try:
        # A source is data: a DTD, which no file of this corpus has, could expand entities or fetch files.
        root = fromstring(data, forbid_dtd=True)
    except ParseError as error:
        return _rejected(file, data, f"not well-formed XML: {error}", error.position[0], None)
    except (LookupError, ValueError) as error:  # the latter for a DTD, both for an encoding that nobody knows
        what = "not safe to read" if isinstance(error, DefusedXmlException) else "not readable XML"
        return _rejected(file, data, f"{what}: {error}", 1, None)
    try:
        return _document(root, file)
    except _MalformedError as error:
        return _rejected(file, data, str(error), _line_of(data, error.element_id), root.get("id"))


def _rejected(file: SourceFile, data: bytes, reason: str, line: int | None, id: str | None) -> Rejected:
    return Rejected(file.name, line, id, file.split, reason, data.decode("utf-8", errors="backslashreplace"))


def _line_of(data: bytes, element_id: str | None) -> int | None:
    position = -1 if not element_id else data.find(f'id="{element_id}"'.encode())
    return None if position < 0 else data.count(b"\n", 0, position) + 1


def _document(root: Element, file: SourceFile) -> Document:
    if root.tag != "document":
        raise _MalformedError(f"the outermost element is <{root.tag}>, not <document>")
    sections: list[Section] = []
    mentions: list[Mention] = []
    relations: list[Relation] = []
    repairs: list[Repair] = []
    texts: list[str] = []
    base = 0
    for sentence in root.findall("sentence"):
        text = _attribute(sentence, "text")
        found = [_mention(entity, text, base, repairs) for entity in sentence.findall("entity")]
        known = {mention.id for mention in found}
        relations += [_relation(pair, known, repairs) for pair in sentence.findall("pair")]
        mentions += found
        sections.append(Section(_attribute(sentence, "id"), base, base + len(text)))
        texts.append(text)
        base += len(text) + 1
    if len(root) > len(texts):
        raise _MalformedError(f"it holds elements other than <sentence>: {', '.join(sorted({child.tag for child in root}))}")
    return Document(
        id=_attribute(root, "id"),
        corpus=CORPUS,
        split=file.split,
        text=" ".join(texts),
        sections=tuple(sections),
        mentions=tuple(mentions),
        relations=tuple(relations),
        repairs=tuple(repairs),
        attributes={"file": file.name, **_others(root, "id")},
    )


def _mention(entity: Element, sentence: str, base: int, repairs: list[Repair]) -> Mention:
    mention_id = _attribute(entity, "id")
    source_text, offsets = _attribute(entity, "text"), _attribute(entity, "charOffset")
    try:
        fitted = fit(sentence, parse_offsets(offsets), source_text)
    except OffsetError as error:
        reason = f"mention {mention_id} ({source_text!r} at {offsets}): {error}"
        raise _MalformedError(reason, mention_id) from None
    attributes = _others(entity, "id", "text", "charOffset", "type")
    if fitted.rule is not None:
        repairs.append(Repair(fitted.rule, f"{mention_id}: source has {source_text!r} at {offsets}, {_told(fitted)}"))
        attributes |= {"source_text": source_text, "source_offsets": offsets}
    return Mention(
        id=mention_id,
        text=fitted.text,
        type=_attribute(entity, "type"),
        spans=tuple(Span(base + start, base + end) for start, end in fitted.spans),
        attributes=attributes,
    )


def _told(fitted: Fitted) -> str:
    return f"kept as {fitted.text!r} at {';'.join(f'{start}-{end - 1}' for start, end in fitted.spans)}"


def _relation(pair: Element, known: set[str], repairs: list[Repair]) -> Relation:
    pair_id = _attribute(pair, "id")
    refs = [_attribute(pair, "e1"), _attribute(pair, "e2")]
    for ref in refs:
        if ref not in known:
            raise _MalformedError(f"pair {pair_id} joins {ref}, which its sentence does not have", pair_id)
    interacts = _attribute(pair, "ddi")
    if interacts not in ("true", "false"):
        raise _MalformedError(f'pair {pair_id} has ddi="{interacts}", neither true nor false', pair_id)
    label = pair.get("type", "")
    if interacts == "true" and not label:
        repairs.append(Repair("ddi_untyped_positive", f"{pair_id}: an interaction without a type, kept with an empty label"))
    return Relation(
        id=pair_id,
        type="DDI",
        label=label,
        arguments=tuple(Argument("mention", ref) for ref in refs),
        counted=interacts == "true",
        attributes=_others(pair, "id", "e1", "e2", "ddi", "type"),
    )


def _attribute(element: Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise _MalformedError(f"<{element.tag}> {element.get('id', '')} has no attribute {name!r}", element.get("id"))
    return value


def _others(element: Element, *known: str) -> dict[str, str]:
    return {name: value for name, value in element.attrib.items() if name not in known}
