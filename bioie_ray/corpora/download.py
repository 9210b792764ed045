"""Fetch an official release: by URL, with a checksum, all or nothing.

Over pooch, which does downloads with known checksums well but refuses a file whose checksum is not known yet only by
accepting anything, and unpacks archives without a limit: what is particular here (trust on first use, bounded unpacking)
would remain ours.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from bioie_ray.corpora.reading import SourceError
from bioie_ray.corpora.unpack import unpack

_CHUNK_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = 60.0
_SCHEMES: Final = ("http", "https")
_NOTE: Final = ".download.json"
_AGENT: Final = "bioie-ray (+corpus download)"


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """A file of a release. ``sha256`` is ``None`` where no sum has been published that we could check."""

    url: str
    sha256: str | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name, from its URL."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name or "download"


@dataclass(frozen=True, slots=True)
class Release:
    """The files that make an official release, and the page that tells about it."""

    files: tuple[ReleaseFile, ...]
    homepage: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched from where. ``verified`` is false where no sum was known: then ``sha256`` is the first one seen."""

    url: str
    name: str
    sha256: str
    num_bytes: int
    verified: bool


@dataclass(frozen=True, slots=True)
class Download:
    """``folder`` holds the unpacked release; ``files`` go into the record of what is made from it."""

    folder: Path
    files: tuple[Fetched, ...]


Progress = Callable[[str], None]


def download(corpus: str, into: Path, release: Release, progress: Progress = lambda _: None) -> Download:
    """Fetch the files of a release and unpack archives into ``into/<corpus>``.

    A new folder appears by a rename when everything is fetched, checked and unpacked: nothing half-done is ever seen
    under its name, and what broke off starts again. One from before is used again if it came from the same addresses
    with the same sums (``.download.json`` in it says which).

    Args:
        corpus: names the folder.
        into: is made if it is missing.
        release: what to fetch; ``with_checksums`` adds the sums a user knows.
        progress: is told one line for each file, also that a sum was not known and which one was found.

    Raises:
        SourceError: not found, no network, another checksum than expected, an archive that is not safe, a full disk.
    """
    target = into / corpus
    if target.exists():
        progress(f"{target}: downloaded before, used again")
        return Download(target, _fetched_before(target, release))
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=f".{corpus}-") as folder:
            staged = Path(folder) / corpus
            staged.mkdir()
            fetched = tuple(_fetch(file, staged, progress) for file in release.files)
            (staged / _NOTE).write_text(json.dumps([asdict(file) for file in fetched], indent=2) + "\n", encoding="utf-8")
            staged.rename(target)
    except OSError as error:
        raise SourceError(_explain_disk(error, into)) from None
    return Download(target, fetched)


def with_checksums(release: Release, checksums: tuple[str, ...]) -> Release:
    """The release with the sums a user gave, one for each file in order.

    Raises:
        SourceError: another number of sums than files, or no SHA-256 in hexadecimal.
    """
    if not checksums:
        return release
    if len(checksums) != len(release.files):
        names = ", ".join(file.name for file in release.files)
        raise SourceError(f"{len(checksums)} checksums for {len(release.files)} files ({names}); give one for each, in order")
    for checksum in checksums:
        if len(checksum) != 64 or not set(checksum.lower()) <= set("0123456789abcdef"):
            raise SourceError(f"{checksum!r} is no SHA-256: 64 hexadecimal digits, as sha256sum prints them")
    pairs = zip(release.files, checksums, strict=True)
    files = tuple(ReleaseFile(file.url, checksum.lower(), file.mirrors) for file, checksum in pairs)
    return Release(files, release.homepage)


def _fetched_before(target: Path, release: Release) -> tuple[Fetched, ...]:
    """What the note of an earlier download says, if that was this release."""
    otherwise = f"{target} is there already, but {{}}; use it as the source, or remove it to download again"
    try:
        fetched = tuple(Fetched(**entry) for entry in json.loads((target / _NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise SourceError(otherwise.format("was not made by a download")) from None
    if len(fetched) != len(release.files):
        raise SourceError(otherwise.format("holds another number of files than the release"))
    for before, file in zip(fetched, release.files, strict=True):
        if before.url not in (file.url, *file.mirrors):
            raise SourceError(otherwise.format(f"came from {before.url}, not {file.url}"))
        if file.sha256 not in (None, before.sha256):
            raise SourceError(otherwise.format(f"{before.name} had the SHA-256 {before.sha256}, not {file.sha256}"))
    return fetched


def _fetch(file: ReleaseFile, folder: Path, progress: Progress) -> Fetched:
    failures = []
    path = folder / file.name
    for url in (file.url, *file.mirrors):
        try:
            num_bytes, sha256 = _retrieve(url, path)
        except _UnreachableError as error:
            failures.append(f"  {url}: {error}")
            continue
        if file.sha256 is not None and sha256 != file.sha256:
            raise SourceError(
                f"{url}: its SHA-256 is not the expected one: the file was changed at its source, or on its way\n"
                f"  expected {file.sha256}\n  received {sha256} ({num_bytes:,} bytes)\n"
                f"Fetch it by hand, look at it, and pass --sha256 {sha256} if it is what you want."
            )
        verified = file.sha256 is not None
        how = "as expected" if verified else f"not known before: trusted on first use; pass --sha256 {sha256} from now on"
        progress(f"{file.name}: {num_bytes:,} bytes from {url}, SHA-256 {how}")
        unpack(path, folder / path.name.partition(".")[0])
        return Fetched(url, file.name, sha256, num_bytes, verified)
    raise SourceError("\n".join([f"{file.name} could not be fetched; get it by hand and give its folder as the source:", *failures]))


class _UnreachableError(Exception):
    """An address that gave nothing; another may."""


def _retrieve(url: str, path: Path) -> tuple[int, str]:
    if urlsplit(url).scheme not in _SCHEMES:
        raise SourceError(f"{url}: only http and https addresses are fetched")
    digest = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": _AGENT})  # noqa: S310 the scheme is checked above
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response, path.open("wb") as stream:  # noqa: S310
            expected = response.headers.get("Content-Length")
            while chunk := response.read(_CHUNK_BYTES):
                stream.write(chunk)
                digest.update(chunk)
            num_bytes = stream.tell()
    except urllib.error.HTTPError as error:
        raise _UnreachableError(f"the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _UnreachableError(f"no answer ({error.reason}); is there a network, or a proxy to set in https_proxy?") from None
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _UnreachableError(f"the connection broke off ({error})") from None
    if expected is not None and num_bytes < int(expected):
        raise _UnreachableError(f"the connection broke off after {num_bytes:,} of {int(expected):,} bytes")
    return num_bytes, digest.hexdigest()


def _explain_disk(error: OSError, into: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(into).free if into.exists() else 0
        return f"{into}: the disk is full ({free:,} bytes free); nothing was kept. Make room, or choose another folder"
    return f"{into}: {os.strerror(error.errno) if error.errno else error}; nothing was kept"
