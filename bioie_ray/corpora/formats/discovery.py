"""Which files of a source belong to a corpus, told by their names and first bytes, and what else a file may be."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from bioie_ray.corpora.reading import SourceError, SourceFile

_HEAD_BYTES: Final = 65_536
_MISSES_SHOWN: Final = 1
_SPLIT_WORDS: Final = (("train", "train"), ("dev|valid", "dev"), ("test|eval", "test"))
_CONTENT: Final = (
    (rb"PK\x03\x04", "a zip archive; unpack it first"),
    (rb"\x1f\x8b", "a gzip archive; unpack it first"),
    (rb"PAR1", "a parquet file"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)"),
    (rb"(?s).*?<collection\b", "BioC XML"),
    (rb"(?s).*?<document\b", "DDI XML"),
    (rb"\s*<", "XML of another kind"),
    (rb"\s*[\[{]", "JSON"),
    (rb"(?m)(.*\n)*?[^\t|\n]+\|[ta]\|", "PubTator"),
    (rb"[^\t\n]+\t[TA]\t\d+\t\d+\t", "CHEMDNER annotations"),
    (rb"[^\t\n]+\t[^\t\n]+\t[^\t\n]+\r?(\n|$)", "CHEMDNER abstracts"),
)

Accept = Callable[[Path], None]


class EmptyFileError(SourceError):
    """A file that ought to hold something."""


def find_files(source: Path, official: Mapping[str, str], suffixes: Sequence[str], accept: Accept, looked_for: str) -> list[SourceFile]:
    """The files of a corpus under a folder, or the one file that ``source`` is, each with its split.

    The official names count wherever they lie. Only where none is found, files of the right suffix whose names tell
    a split ("train", "dev", "test") and whose content is accepted stand in.

    Args:
        source: a folder or a file.
        official: split -> regular expression of the official file name, case ignored.
        suffixes: of the files that may stand in, in lower case.
        accept: raises ``SourceError`` for a file that is not of this corpus and format.
        looked_for: the official names in words, for the message.

    Raises:
        SourceError: nothing found, a file of another corpus, an empty file, or two different files for one split.
        OSError: a file or folder that may not be read.
    """
    if source.is_file():
        accept(source)
        split = official_split(source.name, official) or split_of_name(source.name)
        if split is None:
            raise SourceError(f"{source}: its name does not tell its split; rename it to hold train, dev or test, or give its folder")
        return [SourceFile(source, source.name, split)]
    paths = list(visible_files(source))
    named = [(split, path) for path in paths if (split := official_split(path.name, official)) is not None]
    if named:
        for _, path in named:
            accept(path)
        return _one_a_split(source, named)
    return _stand_ins(source, paths, suffixes, accept, looked_for)


def visible_files(folder: Path) -> Iterator[Path]:
    """Files under a folder in the order of their names, without hidden ones and what archivers leave (``__MACOSX``).

    Links to folders are followed, each folder once. ``Path.rglob`` would pass over them, and over folders that may not be
    read, without a word.

    Raises:
        OSError: a folder that may not be read.
    """
    yield from sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        kept = []
        for name in sorted(filter(_is_visible, folders)):
            real = os.path.realpath(Path(place, name))
            if real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        yield from (path for name in names if _is_visible(name) and (path := Path(place, name)).is_file())


def _refuse(error: OSError) -> NoReturn:
    raise error


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def source_file(source: Path, path: Path, split: str) -> SourceFile:
    """A file with its name relative to the source."""
    return SourceFile(path, path.name if path == source else path.relative_to(source).as_posix(), split)


def official_split(name: str, official: Mapping[str, str]) -> str | None:
    """The split whose official file name this is."""
    return next((s for s, pattern in official.items() if re.fullmatch(pattern, name, re.IGNORECASE)), None)


def split_of_name(name: str) -> str | None:
    """The one split that a file name speaks of; ``None`` where it speaks of none or of several."""
    found = [split for pattern, split in _SPLIT_WORDS if re.search(pattern, name, re.IGNORECASE)]
    return found[0] if len(found) == 1 else None


def read_head(path: Path) -> bytes:
    """The first 64 KiB of a file.

    Raises:
        EmptyFileError: it is empty.
        OSError: it may not be read.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head.strip():
        raise EmptyFileError(f"{path}: the file is empty; fetch it again")
    return head


def describe(head: bytes) -> str:
    """What a file looks like by its beginning, for a message."""
    head = head.removeprefix(b"\xef\xbb\xbf")
    return next((what for pattern, what in _CONTENT if re.match(pattern, head)), "text of no format known here")


def _one_a_split(source: Path, named: Sequence[tuple[str, Path]]) -> list[SourceFile]:
    chosen: dict[str, Path] = {}
    for split, path in sorted(named, key=lambda pair: (len(pair[1].parts), pair[1])):
        first = chosen.setdefault(split, path)
        if first != path and not filecmp.cmp(first, path, shallow=False):
            raise SourceError(f"{first} and {path} are both the {split} split and differ; give the folder of one of them")
    return sorted((source_file(source, path, split) for split, path in chosen.items()), key=lambda file: file.name)


def _stand_ins(source: Path, paths: Sequence[Path], suffixes: Sequence[str], accept: Accept, looked_for: str) -> list[SourceFile]:
    found, misses = [], []
    empty: EmptyFileError | None = None
    for path in paths:
        split = split_of_name(path.name)
        if split is None or not path.name.lower().endswith(tuple(suffixes)):
            continue
        try:
            accept(path)
        except SourceError as error:
            misses.append(str(error))
            empty = error if isinstance(error, EmptyFileError) else empty
        else:
            found.append(source_file(source, path, split))
    if found and empty is not None:  # a whole split would go missing without a word
        raise empty
    if not found:
        raise SourceError("; ".join([f"looked for {looked_for}, found none", *misses[:_MISSES_SHOWN]]))
    return found
