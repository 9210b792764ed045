"""BigBio-KB parquet, as a model hub serves it for all six corpora (Fries et al. 2022, arXiv 2206.15076).

The hub's conversions differ from the releases in known ways, which this reader undoes where the data allows:

* BC5CDR and BioRelEx relations are expanded to all pairs of mentions. One annotated relation is one run of rows, the
  product of the mentions of its two arguments, so the runs give the relations back (``bigbio_relations``).
* BC5CDR comes from the BioC twin, so its mention counts are those of BioC, not of PubTator.
* BioRelEx labels are gone: its relations have an empty label. Its ``document_id`` is the paper, several sentences
  have the same, so ``id`` is taken. ``validation`` is the split ``test``, as the test set was never released.
* DDI lists positive pairs only, writes types in capitals and puts both test sets into ``test``; every document of the
  interaction test has an interaction and none of the recognition test has one, which parts them again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from bioie_ray.config.steps import CorpusName
from bioie_ray.corpora.document import Document, Mention, Section, Span
from bioie_ray.corpora.formats.bigbio_relations import read_relations
from bioie_ray.corpora.formats.discovery import visible_files
from bioie_ray.corpora.formats.settling import Origin, settle
from bioie_ray.corpora.reading import Read, SourceError, SourceFile

_COLUMNS: Final = ("id", "document_id", "passages", "entities", "coreferences", "relations")
_ROWS_PER_BATCH: Final = 32
_SPLIT_WORDS: Final = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}
_HUB_REVISION: Final = "refs/convert/parquet"


class BigBioReader:
    """One corpus in the BigBio-KB schema: a folder of ``*.parquet`` whose paths tell the split, or one such file."""

    format = "bigbio_kb"

    def __init__(self, corpus: CorpusName) -> None:
        self.corpus: str = corpus

    def discover(self, source: Path) -> Sequence[SourceFile]:
        """The parquet files of this schema: those below ``<corpus>_bigbio_kb``, or any where no path names a corpus.

        Raises:
            SourceError: none there, another corpus's, or one whose path tells no split.
        """
        found = [source] if source.is_file() else list(visible_files(source))
        paths = [path for path in found if path.suffix == ".parquet" and _corpus_named(path, source) in (self.corpus, None)]
        paths = [path for path in paths if _has_schema(path)]
        if not paths:
            raise SourceError(f"looked for parquet of the BigBio-KB schema, such as {self.corpus}_bigbio_kb/train/0000.parquet")
        files = []
        for path in paths:
            name = path.name if path == source else path.relative_to(source).as_posix()
            split = _split_told(name, path.parent.name)
            if split is None:
                raise SourceError(f"{path}: its path tells no split; name it or its folder train, validation or test")
            files += [SourceFile(path, name, part) for part in self._splits_in(split)]
        return files

    def read(self, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
        """The documents of one split in source order, read in batches of rows.

        Raises:
            SourceError: a file that is no parquet, or is cut off.
        """
        for file in files:
            if file.split == split:
                for row in _rows(file):
                    read = self._read_row(row, file)
                    if read is not None:
                        yield read

    def _splits_in(self, split: str) -> tuple[str, ...]:
        if self.corpus == "ddi_corpus" and split == "test":
            return ("test", "test_ner")
        return ("test",) if self.corpus == "biorelex" and split == "dev" else (split,)

    def _read_row(self, row: Mapping[str, Any], file: SourceFile) -> Read | None:
        if self.corpus == "ddi_corpus" and file.split in ("test", "test_ner"):
            belongs = "test" if row["relations"] else "test_ner"
            if belongs != file.split:
                return None
        document_id = row["id"] if self.corpus == "biorelex" else row["document_id"]
        origin = Origin(file, line=None, raw=lambda: json.dumps(row, ensure_ascii=False), lines={})
        try:
            return settle(self._document(row, file, document_id), origin)
        except _MalformedError as error:
            return origin.reject(document_id, str(error))

    def _document(self, row: Mapping[str, Any], file: SourceFile, id: str | None) -> Document:
        text, sections = _text(row["passages"] or [])
        clusters = {ref: str(n) for n, group in enumerate(row["coreferences"] or []) for ref in group["entity_ids"]}
        mentions = tuple(self._mention(entity, clusters) for entity in row["entities"] or [])
        known = {mention.id for mention in mentions}
        for relation in row["relations"] or []:
            missing = {relation["arg1_id"], relation["arg2_id"]} - known
            if missing:
                raise _MalformedError(f"relation {relation['id']} joins {min(missing)}, which is no entity of the document")
        paper = {"document_id": row["document_id"]} if self.corpus == "biorelex" else {}
        return Document(
            id=id or "",
            corpus=self.corpus,
            split=file.split,
            text=text,
            sections=sections,
            mentions=mentions,
            relations=read_relations(self.corpus, row["relations"] or [], mentions),
            attributes={"file": file.name, **paper},
        )

    def _mention(self, entity: Mapping[str, Any], clusters: Mapping[str, str]) -> Mention:
        normalized = entity["normalized"] or []
        return Mention(
            id=entity["id"],
            text=" ".join(entity["text"]),
            type=entity["type"].lower() if self.corpus == "ddi_corpus" else entity["type"],
            spans=tuple(Span(start, end) for start, end in entity["offsets"]),
            concept_ids=tuple(dict.fromkeys(_concept_id(self.corpus, link) for link in normalized)),
            entity_id=clusters.get(entity["id"]),
            attributes={"normalized": normalized} if normalized else {},
        )


class _MalformedError(Exception):
    """Why a row cannot be kept."""


def fetch_hub(source: str) -> Path:
    """The folder of a hub data set's parquet: ``hub:bigbio/bc5cdr`` or ``hub:bigbio/bc5cdr@REVISION``.

    Raises:
        SourceError: huggingface_hub is not installed, or the hub does not answer.
    """
    name, _, revision = source.removeprefix("hub:").partition("@")
    if name.count("/") != 1:
        raise SourceError(f"{source}: a hub data set is written hub:ORGANISATION/NAME, for example hub:bigbio/bc5cdr")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise SourceError(f"{source}: reading from a hub needs huggingface_hub; pip install 'bioie-ray[select]'") from None
    try:
        folder = snapshot_download(
            name, repo_type="dataset", revision=revision or _HUB_REVISION, allow_patterns=["*_bigbio_kb/**/*.parquet"]
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise SourceError(f"{source}: the hub gave nothing ({error}); download it elsewhere and give the folder") from None
    return Path(folder)


def _corpus_named(path: Path, source: Path) -> str | None:
    for part in reversed(path.parts[-4:] if path == source else (*source.parts[-1:], *path.relative_to(source).parts)):
        match = re.match(r"(\w+?)_(bigbio|source)", part)
        if match:
            return match[1] if match[2] == "bigbio" else ""
    return None


def _split_told(name: str, folder: str) -> str | None:
    """By a word of the name below the source, the last one first; else by the whole name of the folder it lies in."""
    for part in reversed(name.split("/")):
        for word in re.findall("[a-z]+", part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return _SPLIT_WORDS.get(folder.lower())


def _has_schema(path: Path) -> bool:
    """A broken file is let through, so that reading it says what is wrong with it."""
    try:
        return set(_COLUMNS) <= set(pq.read_schema(path).names)
    except PermissionError:
        raise
    except (pa.ArrowInvalid, OSError):
        return True


def _rows(file: SourceFile) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(file.path) as parquet:
            for batch in parquet.iter_batches(_ROWS_PER_BATCH, columns=list(_COLUMNS)):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{file.path}: not a readable parquet file ({error}); is it cut off?") from None


def _text(passages: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[Section, ...]]:
    """The passages at their offsets, gaps filled with spaces."""
    text = ""
    sections = []
    for passage in passages:
        for part, (start, end) in zip(passage["text"], passage["offsets"], strict=False):
            if start < len(text) or end - start != len(part):
                raise _MalformedError(f"passage {passage['id']} at {start}-{end} does not fit its text of {len(part)} characters")
            text += " " * (start - len(text)) + part
            sections.append(Section(passage["type"] or "", start, end))
    if not text:
        raise _MalformedError("it has no text")
    return text, tuple(sections)


def _concept_id(corpus: str, link: Mapping[str, str]) -> str:
    """As the corpus's release writes it: bare for MeSH and NCBI Gene, with the database before it elsewhere."""
    name, key = link["db_name"] or "", (link["db_id"] or "").strip()
    bare = corpus in ("bc5cdr", "nlm_gene") or name.upper() == "MESH" or not name
    return key if bare else f"{name}:{key}"
