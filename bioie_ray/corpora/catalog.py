"""The six corpora: which readers know them, where their releases are, and how to find the right reader for a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from bioie_ray.config.steps import CorpusName
from bioie_ray.corpora.download import Release, ReleaseFile
from bioie_ray.corpora.formats.bigbio import BigBioReader, fetch_hub
from bioie_ray.corpora.formats.bioc import BioCReader
from bioie_ray.corpora.formats.biorelex import BioRelExReader
from bioie_ray.corpora.formats.chemdner import ChemdnerReader
from bioie_ray.corpora.formats.ddi import DdiReader
from bioie_ray.corpora.formats.pubtator import PubTatorReader
from bioie_ray.corpora.reading import Read, Reader, SourceError, SourceFile

_NAMES_SHOWN: Final = 8
_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """A corpus: its readers in order of preference, its official release and the terms it comes under."""

    name: CorpusName
    readers: tuple[Reader, ...]
    release: Release
    licence: str


_CORPORA: Final = (
    CorpusInfo(
        "bc5cdr",
        (PubTatorReader("bc5cdr"), BioCReader("bc5cdr"), BigBioReader("bc5cdr")),
        Release(
            (
                ReleaseFile(
                    "https://biocreative.bioinformatics.udel.edu/media/store/files/2016/CDR_Data.zip",
                    mirrors=("https://github.com/JHnlp/BioCreative-V-CDR-Corpus/raw/master/CDR_Data.zip",),
                ),
            ),
            homepage="https://biocreative.bioinformatics.udel.edu/tasks/biocreative-v/track-3-cdr/",
        ),
        "US-Gov public domain",
    ),
    CorpusInfo(
        "ncbi_disease",
        (PubTatorReader("ncbi_disease"), BioCReader("ncbi_disease"), BigBioReader("ncbi_disease")),
        Release(
            tuple(
                ReleaseFile(f"https://www.ncbi.nlm.nih.gov/CBBresearch/Dogan/DISEASE/NCBI{part}set_corpus.zip")
                for part in ("train", "develop", "test")
            ),
            homepage="https://www.ncbi.nlm.nih.gov/CBBresearch/Dogan/DISEASE/",
        ),
        "US-Gov public domain",
    ),
    CorpusInfo(
        "nlm_gene",
        (PubTatorReader("nlm_gene"), BioCReader("nlm_gene"), BigBioReader("nlm_gene")),
        Release(
            (
                ReleaseFile(
                    "https://ftp.ncbi.nlm.nih.gov/pub/lu/NLMGene/NLM-Gene-Corpus.zip",
                    mirrors=("https://zenodo.org/record/5089049/files/NLM-Gene-Corpus.zip",),
                ),
            ),
            homepage="https://ftp.ncbi.nlm.nih.gov/pub/lu/NLMGene/",
        ),
        "CC0",
    ),
    CorpusInfo(
        "chemdner",
        (ChemdnerReader(), BigBioReader("chemdner")),
        Release(
            (ReleaseFile("https://biocreative.bioinformatics.udel.edu/media/store/files/2014/chemdner_corpus.tar.gz"),),
            homepage="https://biocreative.bioinformatics.udel.edu/resources/biocreative-iv/chemdner-corpus/",
        ),
        "not stated; see the home page",
    ),
    CorpusInfo(
        "ddi_corpus",
        (DdiReader(), BigBioReader("ddi_corpus")),
        Release(
            (ReleaseFile("https://github.com/isegura/DDICorpus/raw/master/DDICorpus-2013.zip"),),
            homepage="https://github.com/isegura/DDICorpus",
        ),
        "CC BY-NC 4.0",
    ),
    CorpusInfo(
        "biorelex",
        (BioRelExReader(), BigBioReader("biorelex")),
        Release(
            tuple(
                ReleaseFile(f"https://github.com/YerevaNN/BioRelEx/releases/download/1.0alpha7/1.0alpha7.{part}.json")
                for part in ("train", "dev")
            ),
            homepage="https://github.com/YerevaNN/BioRelEx",
        ),
        "not stated; see the home page",
    ),
)
CORPORA: Final[Mapping[CorpusName, CorpusInfo]] = {info.name: info for info in _CORPORA}


def corpus_info(corpus: str) -> CorpusInfo:
    """The entry of a corpus.

    Raises:
        SourceError: no such corpus; the message names the ones there are.
    """
    for name in get_args(CorpusName):
        if name == corpus:
            return CORPORA[name]
    raise SourceError(f"no corpus is called {corpus!r}; known: {', '.join(get_args(CorpusName))}")


def find_reader(corpus: str, source: Path | str, format: str = "auto") -> tuple[Reader, list[SourceFile]]:
    """The first reader of the corpus that recognises the source, and the files it will read.

    Args:
        corpus: a key of ``CORPORA``.
        source: a folder laid out as the release has it, one file of it, or ``hub:ORG/NAME`` for the parquet of a hub
            data set.
        format: a format name, or ``auto`` for the corpus's formats in order of preference.

    Raises:
        SourceError: nothing there, no such format, or the source is not this corpus; the message says what each
            reader looked for and, where another corpus is recognised, which.
    """
    info = corpus_info(corpus)
    path = fetch_hub(str(source)) if str(source).startswith("hub:") else Path(source)
    readers = _readers_of(info, format)
    try:
        if not path.exists():
            raise SourceError(f"{path}: no such file or folder; give the folder of the {corpus} release, or use --download")
        return _first_that_takes(path, readers, corpus)
    except OSError as error:
        raise _unreadable(error, path) from None


def _first_that_takes(path: Path, readers: Iterable[Reader], corpus: str) -> tuple[Reader, list[SourceFile]]:
    misses = []
    for reader in readers:
        try:
            return reader, list(reader.discover(path))
        except SourceError as error:
            misses.append(f"  {reader.format}: {error}")
    raise SourceError("\n".join([f"{path} is not a source of {corpus}.", *misses, _likeness(corpus, path)]))


def read_split(reader: Reader, files: Sequence[SourceFile], split: str) -> Iterator[Read]:
    """The documents and rejects of one split, in source order.

    Raises:
        SourceError: no file of the source belongs to that split.
    """
    if not any(file.split == split for file in files):
        raise SourceError(f"{reader.corpus} has no {split!r} here; found: {', '.join(splits_of(files)) or 'nothing'}")
    return reader.read(files, split)


def splits_of(files: Iterable[SourceFile]) -> list[str]:
    """The splits that files belong to, in the order train, dev, test, test_ner."""
    order = ("train", "dev", "test", "test_ner")
    return sorted({file.split for file in files}, key=order.index)


def fingerprint_source(files: Iterable[SourceFile]) -> str:
    """SHA-256 over the sorted (name, SHA-256 of the content) of the files: what can change a prepared corpus's bytes.

    Raises:
        SourceError: a file that may not be read.
    """
    entries = {}
    for file in files:
        try:
            with file.path.open("rb") as stream:
                entries[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(error, file.path) from None
    total = hashlib.sha256()
    for name, digest in sorted(entries.items()):
        total.update(f"{len(name.encode())}:{name}{digest}".encode())
    return total.hexdigest()


def _unreadable(error: OSError, path: Path) -> SourceError:
    return SourceError(
        f"{error.filename or path}: cannot be read ({error.strerror or error}); make it readable, or take it out of the source"
    )


def _readers_of(info: CorpusInfo, format: str) -> tuple[Reader, ...]:
    readers = tuple(reader for reader in info.readers if format in ("auto", reader.format))
    if not readers:
        known = ", ".join(dict.fromkeys(reader.format for reader in info.readers))
        raise SourceError(f"{info.name} has no format {format!r}; known: auto, {known}")
    return readers


def _likeness(corpus: str, path: Path) -> str:
    """What the source is instead: another corpus whose own (non-parquet) reader takes it, else what lies there."""
    for other in CORPORA.values():
        for reader in other.readers:
            if other.name == corpus or isinstance(reader, BigBioReader):
                continue
            try:
                reader.discover(path)
            except (SourceError, OSError):
                continue
            return f"This looks like {other.name}; run: bioie prepare {other.name} {path} --out DIR"
    if path.is_dir():
        archives = sorted(entry.name for entry in path.iterdir() if entry.name.lower().endswith(_ARCHIVES))
        if archives:
            return f"It holds archives, which are not opened: unpack {', '.join(archives[:_NAMES_SHOWN])} there first."
        names = sorted(entry.name for entry in path.iterdir())
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return f"It holds: {', '.join(names[:_NAMES_SHOWN]) or 'nothing'}{more}."
    return "It is one file; the folder of the release would do as well."
