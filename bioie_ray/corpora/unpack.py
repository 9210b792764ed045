"""Unpack a downloaded archive: no member outside the folder, no links, and not more than a limit."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from bioie_ray.corpora.reading import SourceError

# The largest of the six releases unpacks to about 60 MB; an archive that claims 100 times that is a bomb or a mistake.
MAX_UNPACKED_BYTES: Final = 6_000_000_000
MAX_MEMBERS: Final = 200_000
_CHUNK_BYTES: Final = 1 << 20
# RuntimeError is what zipfile raises for an encrypted member.
_BROKEN: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)
Member = tuple[str, "IO[bytes] | gzip.GzipFile"]


def unpack(path: Path, into: Path, max_bytes: int = MAX_UNPACKED_BYTES) -> None:
    """Unpack a ``.zip``, ``.tar.gz``, ``.tgz``, ``.tar`` or ``.gz`` into a folder and remove it; any other file is left as it is.

    Raises:
        SourceError: a broken archive, a member that would lie outside ``into``, or more than ``max_bytes`` in all.
    """
    name = path.name.lower()
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                _write_all(_zip_members(archive), into, path, max_bytes)
        elif name.endswith((".tar.gz", ".tgz", ".tar")):
            with tarfile.open(path) as tar:
                _write_all(_tar_members(tar, path), into, path, max_bytes)
        elif name.endswith(".gz"):
            with gzip.open(path) as stream:
                _write_all([(path.name[:-3], stream)], into, path, max_bytes)
        else:
            return
    except _BROKEN as error:
        raise SourceError(f"{path.name}: not a readable archive ({error}); it is cut off, or not what the address says") from None
    path.unlink()


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if not info.is_dir():
            with archive.open(info) as stream:
                yield info.filename, stream


def _tar_members(tar: tarfile.TarFile, path: Path) -> Iterator[Member]:
    for info in tar:
        if info.isdir():
            continue
        stream = tar.extractfile(info) if info.isreg() else None
        if stream is None:
            raise SourceError(f"{path.name}: its member {info.name!r} is a link or a device; no corpus has such")
        with stream:
            yield info.name, stream


def _write_all(members: Iterable[Member], into: Path, archive: Path, max_bytes: int) -> None:
    left = max_bytes
    for number, (name, stream) in enumerate(members):
        if number >= MAX_MEMBERS:
            raise SourceError(f"{archive.name}: more than {MAX_MEMBERS:,} members; no corpus has so many")
        target = _target(name, into, archive)
        with _open_new(target, archive) as out:
            while chunk := stream.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    raise SourceError(f"{archive.name}: it unpacks to more than the limit of {max_bytes:,} bytes")
                out.write(chunk)


@contextmanager
def _open_new(target: Path, archive: Path) -> Iterator[IO[bytes]]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = target.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise SourceError(f"{archive.name}: two of its members are called {target.name!r}") from None
    with stream:
        yield stream


def _target(name: str, into: Path, archive: Path) -> Path:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name:
        raise SourceError(f"{archive.name}: its member {name!r} would lie outside the folder; not unpacked")
    return into.joinpath(*parts)
