"""Whole-object reads and writes on a folder or an object store (S3, GCS, Azure).

Two guarantees carry everything above: ``write`` is atomic (a reader sees the old object, the new one or none, never a
part), and ``create`` succeeds for exactly one of several writers. Locally that is a synced temporary file with a rename
(``write``) or a hard link (``create``); on object stores one put, conditional (``If-None-Match: *``) for ``create``.
obstore does the latter for S3, GCS and Azure alike; pyarrow's S3 stream would publish what it has when a write fails
half-way (https://github.com/apache/arrow/issues), so objects go through memory whole: shards are sized for that.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bioie_ray.artifacts.reasons import first_line

T = TypeVar("T")

# A server that is away is waited for: a rolling restart, or a node that dies with it, takes half a minute to a minute. One call
# of obstore cannot be interrupted by a signal, so it gets ten seconds, and the waiting is done in rounds of it.
_WAIT_S = 120.0
_RETRIES: Any = {
    "max_retries": 50,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=1.5), "base": 4},
}
_NO_RETRIES: Any = {**_RETRIES, "max_retries": 0}
# Of a large object. A request has 30 s, and S3 takes 10,000 parts and no single put of more than 5 GiB.
_PART = 32 * 2**20
_CREATE_TIMEOUT = timedelta(seconds=120)
# How obstore's errors speak of a server that is away, and not of a request that is wrong.
_AWAY = re.compile(r"error sending request|connection|timed? ?out|dns error|status code: 5\d\d|error decoding response", re.IGNORECASE)


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
    return _ObjectStore(address)


class _FolderStore:
    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> bytes:
        try:
            return (self._root / key).read_bytes()
        except NotADirectoryError:  # a file lies where a folder of the key should be
            raise FileNotFoundError(self.describe(key)) from None

    def write(self, key: str, data: bytes) -> None:
        target = self._root / key
        temporary = self._temporary(target, data)
        try:
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def create(self, key: str, data: bytes) -> bool:
        target = self._root / key
        if target.exists():
            return False
        temporary = self._temporary(target, data)
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

    def _temporary(self, target: Path, data: bytes) -> Path:
        """A synced file beside the target, so that the rename stays within one file system."""
        temporary = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _explain(error, target, len(data)) from error
        return temporary


class _ObjectStore:
    def __init__(self, address: StoreAddress) -> None:
        from obstore.store import from_url

        self._url = address.url.rstrip("/")
        options: dict[str, Any] = {}
        if self._url.startswith("s3://"):
            options["region"] = os.environ.get("AWS_REGION", address.region)
            if address.endpoint:
                options["endpoint"] = address.endpoint
                options["client_options"] = {"allow_http": address.endpoint.startswith("http://")}
        try:
            self._store = from_url(self._url, retry_config=_RETRIES, **options)
            patient = {**options.get("client_options", {}), "timeout": _CREATE_TIMEOUT}  # parts cannot be conditional: all in one request
            self._once = from_url(self._url, retry_config=_NO_RETRIES, **options | {"client_options": patient})
        except Exception as error:  # obstore has no common base for bad configuration
            raise StoreError(f"cannot open the store {self._url}: {first_line(error)}") from error

    def read(self, key: str) -> bytes:
        try:
            return self._waiting("read", key, lambda: self._fetch(key))
        except FileNotFoundError:
            raise FileNotFoundError(self.describe(key)) from None

    def write(self, key: str, data: bytes) -> None:
        import obstore

        try:
            # A large object goes in parts, each of which has the time of a request; it shows up whole, and when the last part is there.
            self._waiting("write", key, lambda: obstore.put(self._store, key, data, chunk_size=_PART))
        except FileNotFoundError as error:  # no such bucket
            raise self._unreachable("write", key, error) from error

    def create(self, key: str, data: bytes) -> bool:
        import obstore

        in_doubt = False

        def put() -> bool:
            nonlocal in_doubt
            try:
                obstore.put(self._once, key, data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                # After a try whose answer was lost, the object that is there may be the one that it put: so no try goes unseen.
                return in_doubt and self.read(key) == data
            except obstore.exceptions.BaseError:
                in_doubt = True
                raise
            return True

        try:
            return self._waiting("create", key, put)
        except FileNotFoundError as error:
            raise self._unreachable("create", key, error) from error

    def _fetch(self, key: str) -> bytes:
        import obstore

        found = obstore.get(self._store, key)
        size = found.meta["size"]
        if size <= _PART:
            return bytes(found.bytes())
        return b"".join(bytes(obstore.get_range(self._store, key, start=at, end=min(at + _PART, size))) for at in range(0, size, _PART))

    def exists(self, key: str) -> bool:
        import obstore

        try:
            self._waiting("look up", key, lambda: obstore.head(self._store, key))
        except FileNotFoundError:
            return False
        return True

    def keys(self, prefix: str) -> list[str]:
        import obstore

        def listed() -> list[str]:
            return sorted(meta["path"] for batch in obstore.list(self._store, prefix=prefix) for meta in batch)

        return self._waiting("list", prefix, listed)

    def delete(self, key: str) -> None:
        import obstore

        try:
            self._waiting("delete", key, lambda: obstore.delete(self._store, key))
        except FileNotFoundError:
            return

    def _waiting(self, verb: str, key: str, request: Callable[[], T]) -> T:
        """Do a request, again and again for as long as the server is only away."""
        import obstore

        begun = time.monotonic()
        told = False
        while True:
            try:
                return request()
            except obstore.exceptions.BaseError as error:
                waited_s = time.monotonic() - begun
                if waited_s >= _WAIT_S or not _AWAY.search(_cause(error)):
                    raise self._unreachable(verb, key, error) from error
                if not told:
                    print(f"{self._url} does not answer ({_cause(error)}); trying on for {_WAIT_S:.0f} s", file=sys.stderr, flush=True)
                    told = True
            time.sleep(0.5)

    def describe(self, key: str) -> str:
        return f"{self._url}/{key}"

    def _unreachable(self, verb: str, key: str, error: Exception) -> StoreError:
        return StoreError(
            f"cannot {verb} {self.describe(key)}: {first_line(error)}; check the bucket, storage.endpoint, and the credentials in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def _cause(error: Exception) -> str:
    """What happened, without what was tried: that names time limits, which are no time-out."""
    return first_line(error).rpartition(" - ")[2]


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
