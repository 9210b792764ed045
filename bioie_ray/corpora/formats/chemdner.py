"""CHEMDNER's two files a split (Krallinger et al. 2015, doi 10.1186/1758-2946-7-S1-S2).

``*.abstracts.txt`` has ``PMID title abstract`` and ``*.annotations.txt`` ``PMID T|A start end mention class``, tabs between.
Offsets are half-open, in code points, into the title or the abstract alone; here they become offsets into title + one space +
abstract, as in PubTator.

The annotations need not come in the order of the abstracts. What is held of their file is where each document's lines
begin, about 100 bytes a document; the lines themselves are read again document by document, so memory is bounded by
one document and that index, not by the annotations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO, Final

from bioie_ray.corpora.document import Document, Mention, Repair, Section, Span
from bioie_ray.corpora.formats.discovery import describe, find_files, read_head, source_file, visible_files
from bioie_ray.corpora.formats.lines import Line, cut_off, line_at, numbered_lines
from bioie_ray.corpora.formats.settling import MalformedError, Origin, settle
from bioie_ray.corpora.reading import Read, Rejected, SourceError, SourceFile
from bioie_ray.corpora.repair import convert_offsets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CORPUS: Final = "chemdner"
SEPARATOR: Final = " "
_PARTS: Final = {"train": "train(?:ing)?", "dev": "dev(?:elopment)?", "test": "(?:test|evaluation)"}
_ABSTRACTS: Final = {split: rf"(?:chemdner[._-])?{part}[._-]abstracts\.txt" for split, part in _PARTS.items()}
# A lone pair without a split in its name is the sample that the organisers gave out: training documents.
_PLAIN: Final = re.compile(r"(chemdner[._-]?)?abstracts\.txt", re.IGNORECASE)
_ABSTRACT_IN_HEAD: Final = re.compile(r"[^\t|]+\t[^\t]*\t(?!\d+\t\d+\t)")
_ANNOTATION_IN_HEAD: Final = re.compile(r"[^\t]+\t[TA]\t\d+\t\d+\t")
_LOOKED_FOR: Final = "training.abstracts.txt and training.annotations.txt (development, evaluation)"
_ABSTRACT_COLUMNS: Final = 3
_ANNOTATION_COLUMNS: Final = 6
_CLASSES: Final = frozenset({"ABBREVIATION", "FAMILY", "FORMULA", "IDENTIFIER", "MULTIPLE", "NO CLASS", "SYSTEMATIC", "TRIVIAL"})


class ChemdnerReader:
    """The abstracts and annotations of the release, whole or in part, nested under any folder."""

    corpus = CORPUS
    format = "chemdner"

    def discover(self, source: Path) -> Sequence[SourceFile]:
        """The abstracts files, each followed by its annotations file, which lies beside it.

        Raises:
            SourceError: nothing there, a file that is empty or of another format, or annotations that are missing.
        """
        files = []
        for abstracts in _abstracts_files(source):
            path = _annotations_beside(abstracts.path)
            _accept_annotations(path)
            name = abstracts.name.removesuffix(abstracts.path.name) + path.name
            files += [abstracts, SourceFile(path, name, abstracts.split)]
        return files

    def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
        """The documents of one split in the order of the abstracts, then what is annotated and has no abstract.

        Raises:
            SourceError: the annotations are cut off.
        """
        by_name = {file.name: file for file in files if file.split == split}
        for name, file in by_name.items():
            if _annotations_name(file.path.name) != file.path.name:
                beside = name.removesuffix(file.path.name) + _annotations_name(file.path.name)
                yield from _read_pair(file, by_name[beside])


def _abstracts_files(source: Path) -> list[SourceFile]:
    if source.is_file():
        return _from_file(source)
    try:
        return find_files(source, _ABSTRACTS, (".abstracts.txt",), _accept_abstracts, _LOOKED_FOR)
    except SourceError:
        plain = [path for path in visible_files(source) if _PLAIN.fullmatch(path.name)]
        if len(plain) != 1:
            raise
    _accept_abstracts(plain[0])
    return [source_file(source, plain[0], "train")]


def _from_file(source: Path) -> list[SourceFile]:
    """Either file of a pair stands for both."""
    path = source.with_name(re.sub("annotations", "abstracts", source.name, flags=re.IGNORECASE))
    if not path.is_file():
        raise SourceError(f"{source}: the abstracts {path.name} are not beside it")
    if _PLAIN.fullmatch(path.name):
        _accept_abstracts(path)
        return [SourceFile(path, path.name, "train")]
    return find_files(path, _ABSTRACTS, (".txt",), _accept_abstracts, _LOOKED_FOR)


def _annotations_beside(abstracts: Path) -> Path:
    path = abstracts.with_name(_annotations_name(abstracts.name))
    if path == abstracts or not path.is_file():
        raise SourceError(
            f"{abstracts}: its annotations are not beside it; a CHEMDNER split is a pair NAME.abstracts.txt, NAME.annotations.txt"
        )
    return path


def _annotations_name(abstracts: str) -> str:
    return re.sub("abstracts", "annotations", abstracts, flags=re.IGNORECASE)


def _accept_abstracts(path: Path) -> None:
    _accept(path, _ABSTRACT_IN_HEAD, "CHEMDNER abstracts (PMID, title, abstract between tabs)")


def _accept_annotations(path: Path) -> None:
    _accept(path, _ANNOTATION_IN_HEAD, "CHEMDNER annotations (PMID, T or A, start, end, mention, class between tabs)")


def _accept(path: Path, pattern: re.Pattern[str], what: str) -> None:
    """A file is told by any line of its beginning, so that one bad line rejects a document and not the file."""
    head = read_head(path)
    lines = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace").split("\n")
    if not any(pattern.match(line) for line in lines):
        raise SourceError(f"{path}: not {what}; it looks like {describe(head)}")


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive lines of one document in the annotations file."""

    offset: int
    number: int
    num_lines: int


def _index(path: Path) -> dict[str, list[_Run]]:
    runs: dict[str, list[_Run]] = {}
    last: str | None = None
    for line in numbered_lines(path):
        if line.is_blank:
            last = None
            continue
        document_id = line.text.partition("\t")[0]
        if document_id == last:
            own = runs[document_id]
            own[-1] = replace(own[-1], num_lines=own[-1].num_lines + 1)
        else:
            runs.setdefault(document_id, []).append(_Run(line.offset, line.number, 1))
        last = document_id
        _check_whole(line, path)
    return runs


def _check_whole(line: Line, path: Path) -> None:
    """Refuse annotations that break off: the documents that come after it would lose theirs without a word."""
    if line.ended:
        return
    columns = line.text.split("\t")
    if len(columns) < _ANNOTATION_COLUMNS or columns[-1] not in _CLASSES:
        raise SourceError(cut_off(path, line.number, f"{line.text!r} is not a whole annotation"))


def _lines_of(runs: Sequence[_Run], stream: BinaryIO) -> Iterator[Line]:
    for run in runs:
        offset = run.offset
        for i in range(run.num_lines):
            line = line_at(stream, run.number + i, offset)
            offset = stream.tell()
            yield line


def _read_pair(abstracts: SourceFile, annotations: SourceFile) -> Iterator[Read]:
    index = _index(annotations.path)
    with annotations.path.open("rb") as stream:
        seen = set()
        for line in numbered_lines(abstracts.path):
            if line.is_blank:
                continue
            document_id = line.text.partition("\t")[0]
            seen.add(document_id)
            yield _read_document(line, list(_lines_of(index.get(document_id, ()), stream)), abstracts, annotations)
        for document_id, runs in index.items():
            if document_id not in seen:
                yield _orphan(document_id, list(_lines_of(runs, stream)), annotations, abstracts)


def _orphan(id: str, lines: Sequence[Line], annotations: SourceFile, abstracts: SourceFile) -> Rejected:
    reason = f"{len(lines)} annotations of a document that {abstracts.name} does not have"
    raw = "\n".join(line.text for line in lines)
    return Rejected(annotations.name, lines[0].number, id or None, annotations.split, reason, raw)


def _read_document(line: Line, annotated: Sequence[Line], abstracts: SourceFile, annotations: SourceFile) -> Read:
    def raw() -> str:
        return "\n".join([line.text, *(one.text for one in annotated)])

    columns = line.text.split("\t", _ABSTRACT_COLUMNS - 1)
    in_abstracts = Origin(abstracts, line.number, raw, {})
    if line.problem is not None:
        return in_abstracts.reject(columns[0] or None, line.problem)
    if len(columns) < _ABSTRACT_COLUMNS or not columns[0].strip():
        return in_abstracts.reject(columns[0] or None, f"{len(columns)} columns, not an id, a title and an abstract")
    document_id, title, abstract = columns
    if not line.ended and not annotated:
        return in_abstracts.reject(document_id, "the file ends within this abstract, without a line break; is it cut off?")
    if not title and not abstract:
        return in_abstracts.reject(document_id, "title and abstract are empty")
    lines = {f"m{i}": one.number for i, one in enumerate(annotated)}
    in_annotations = Origin(annotations, annotated[0].number if annotated else None, raw, lines)
    try:
        mentions, repairs = _mentions(title, abstract, annotated)
    except MalformedError as error:
        return in_annotations.reject(document_id, error.reason, error.line)
    start = len(title) + len(SEPARATOR)
    document = Document(
        id=document_id,
        corpus=CORPUS,
        split=abstracts.split,
        text=title + SEPARATOR + abstract,
        sections=(Section("title", 0, len(title)), Section("abstract", start, start + len(abstract))),
        mentions=mentions,
        repairs=repairs,
        attributes={"file": abstracts.name, "line": line.number},
    )
    return settle(document, in_annotations if annotated else in_abstracts)


def _mentions(title: str, abstract: str, annotated: Sequence[Line]) -> tuple[tuple[Mention, ...], tuple[Repair, ...]]:
    found: list[tuple[str, Mention]] = [_mention(line, f"m{i}") for i, line in enumerate(annotated)]
    placed: dict[str, Mention] = {}
    repairs: list[Repair] = []
    for part, text, start in (("T", title, 0), ("A", abstract, len(title) + len(SEPARATOR))):
        own = [mention for section, mention in found if section == part]
        for mention in own:
            if mention.spans[0].end > _longest(text):
                reason = f"mention {mention.text!r} lies beyond the {'title' if part == 'T' else 'abstract'} of {len(text)} characters"
                raise MalformedError(reason, annotated[int(mention.id[1:])].number)
        converted, notes = convert_offsets(text, own)
        repairs += notes
        for mention in converted:
            span = mention.spans[0]
            placed[mention.id] = replace(mention, spans=(Span(span.start + start, span.end + start),))
    return tuple(placed[mention.id] for _, mention in found), tuple(repairs)


def _longest(text: str) -> int:
    """The length of a text in the unit that makes it longest, UTF-8 bytes."""
    return len(text.encode("utf-8", "surrogatepass"))


def _mention(line: Line, mention_id: str) -> tuple[str, Mention]:
    if line.problem is not None:
        raise MalformedError(line.problem, line.number)
    columns = line.text.split("\t")
    if len(columns) < _ANNOTATION_COLUMNS:
        raise MalformedError(f"{len(columns)} columns, where an annotation has {_ANNOTATION_COLUMNS}", line.number)
    section, start, end = columns[1:4]
    if section not in ("T", "A"):
        raise MalformedError(f"the section is {section!r}, neither T (title) nor A (abstract)", line.number)
    if not all(re.fullmatch(r"[0-9]{1,12}", offset) for offset in (start, end)):
        raise MalformedError(f"the offsets {start!r} and {end!r} are not numbers", line.number)
    more = columns[_ANNOTATION_COLUMNS:]
    span = Span(int(start), int(end))
    return section, Mention(mention_id, columns[4], columns[5], (span,), attributes={"more_columns": more} if more else {})
