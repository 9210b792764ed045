"""Whole-object reads and writes on a folder or an object store (S3, GCS, Azure).

Two guarantees carry everything above: ``write`` is atomic (a reader sees the old object, the new one or none, never a
part), and ``create`` succeeds for exactly one of several writers. Locally that is a synced temporary file with a rename
(``write``) or a hard link (``create``); object stores have ``object_store.py``. Objects go through memory whole: shards are sized for that. What is
not (an optimizer's states) goes from file to file, piece by piece: ``write_file``, ``read_file``.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

_PIECE = 4 * 2**20


class StoreError(ValueError):
    """A store that cannot be reached or written; the message says where and what to do."""


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a store is: picklable, so that actors open it themselves. Credentials stay in the environment."""

    url: str
    endpoint: str | None = None
    region: str = "us-east-1"

    @property
    def is_local(self) -> bool:
        """True for a folder of this machine (or of a volume mounted here)."""
        return "://" not in self.url or self.url.startswith("file://")

    @property
    def folder(self) -> Path:
        """The folder of a local store, absolute."""
        assert self.is_local, self.url
        return Path(self.url.removeprefix("file://")).absolute()


class Store(Protocol):
    """Objects by key; keys use ``/`` and are relative to the store's root."""

    def read(self, key: str) -> bytes:
        """The object's bytes. Raises FileNotFoundError."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Put the whole object, replacing one that is there."""
        ...

    def write_file(self, key: str, source: Path) -> None:
        """``write`` of a file, which need not fit into memory."""
        ...

    def read_file(self, key: str, target: Path) -> None:
        """The object's bytes as a file, in a folder that is there. Raises FileNotFoundError."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Put the object unless one is there; False when another writer was first."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Keys of all objects below ``prefix/``, sorted."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        ...

    def describe(self, key: str) -> str:
        """The key as a person would write it: a path or a URL."""
        ...


@lru_cache(maxsize=64)
def open_store(address: StoreAddress) -> Store:
    """The store at an address.

    Raises:
        StoreError: a URL scheme that is not known, or a bucket that cannot be configured.
    """
    if address.is_local:
        return _FolderStore(address.folder)
    from bioie_ray.artifacts.object_store import ObjectStore  # which imports this module

    return ObjectStore(address)


class _FolderStore:
    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> bytes:
        try:
            return (self._root / key).read_bytes()
        except NotADirectoryError:  # a file lies where a folder of the key should be
            raise FileNotFoundError(self.describe(key)) from None

    def write(self, key: str, data: bytes) -> None:
        self._put(self._root / key, len(data), lambda file: file.write(data))

    def write_file(self, key: str, source: Path) -> None:
        with source.open("rb") as opened:
            self._put(self._root / key, source.stat().st_size, lambda file: shutil.copyfileobj(opened, file, _PIECE))

    def read_file(self, key: str, target: Path) -> None:
        try:
            shutil.copyfile(self._root / key, target)
        except NotADirectoryError:
            raise FileNotFoundError(self.describe(key)) from None

    def _put(self, target: Path, num_bytes: int, fill: Callable[[BinaryIO], object]) -> None:
        temporary = self._temporary(target, num_bytes, fill)
        try:
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def create(self, key: str, data: bytes) -> bool:
        target = self._root / key
        if target.exists():
            return False
        temporary = self._temporary(target, len(data), lambda file: file.write(data))
        try:
            os.link(temporary, target)  # fails if the target exists, unlike rename
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(f"cannot link {target}: {error.strerror}; a store needs a file system with hard links") from error
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
        return True

    def exists(self, key: str) -> bool:
        return (self._root / key).is_file()

    def keys(self, prefix: str) -> list[str]:
        return sorted(self._walk(self._root / prefix))

    def delete(self, key: str) -> None:
        (self._root / key).unlink(missing_ok=True)

    def describe(self, key: str) -> str:
        return str(self._root / key)

    def _walk(self, folder: Path) -> Iterator[str]:
        for path in folder.rglob("*"):
            if not path.name.startswith(".tmp-") and path.is_file():
                yield path.relative_to(self._root).as_posix()

    def _temporary(self, target: Path, num_bytes: int, fill: Callable[[BinaryIO], object]) -> Path:
        """A synced file beside the target, so that the rename stays within one file system."""
        temporary = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _explain(error, target, num_bytes) from error
        return temporary


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut: the folder's own entry has to reach the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, target: Path, num_bytes: int) -> StoreError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:  # the last by ulimit -f
        return StoreError(
            f"no space for {target} ({num_bytes:,} bytes): free some, or set store= to another disk; nothing half-written was kept"
        )
    return StoreError(f"cannot write {target}: {error.strerror}; check that store= is a folder you may write to")
