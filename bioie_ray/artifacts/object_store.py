"""A store on S3, GCS or Azure: atomic puts, conditional ones (``If-None-Match: *``) for ``create``, and patience with a server that is away.

obstore does this for all three alike; pyarrow's S3 stream would publish what it has when a write fails half-way
(https://github.com/apache/arrow/issues).
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.artifacts.store import StoreAddress, StoreError

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


class ObjectStore:
    """Objects below a URL; see ``Store``."""

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
        """The bytes, of a large object in parts. Raises FileNotFoundError."""
        try:
            return self._waiting("read", key, lambda: self._fetch(key))
        except FileNotFoundError:
            raise FileNotFoundError(self.describe(key)) from None

    def write(self, key: str, data: bytes) -> None:
        """Put the whole object."""
        self._put(key, data)

    def write_file(self, key: str, source: Path) -> None:
        """The same of a file, of which no more than some parts are in memory."""
        self._put(key, source)

    def _put(self, key: str, data: bytes | Path) -> None:
        import obstore

        try:
            # A large object goes in parts, each of which has the time of a request; it shows up whole, and when the last part is there.
            self._waiting("write", key, lambda: obstore.put(self._store, key, data, chunk_size=_PART))
        except FileNotFoundError as error:  # no such bucket
            raise self._unreachable("write", key, error) from error

    def read_file(self, key: str, target: Path) -> None:
        """The bytes as a file, part by part. Raises FileNotFoundError."""
        import obstore

        try:
            size = self._waiting("read", key, lambda: obstore.head(self._store, key))["size"]
            with target.open("wb") as file:
                for at in range(0, size, _PART):
                    end = min(at + _PART, size)
                    file.write(self._waiting("read", key, partial(obstore.get_range, self._store, key, start=at, end=end)))
        except FileNotFoundError:
            raise FileNotFoundError(self.describe(key)) from None

    def create(self, key: str, data: bytes) -> bool:
        """Put the object in one request, on the condition that none is there; False when another writer was first."""
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
        """Whether there is such an object."""
        import obstore

        try:
            self._waiting("look up", key, lambda: obstore.head(self._store, key))
        except FileNotFoundError:
            return False
        return True

    def keys(self, prefix: str) -> list[str]:
        """Keys of all objects below ``prefix/``, sorted."""
        import obstore

        def listed() -> list[str]:
            return sorted(meta["path"] for batch in obstore.list(self._store, prefix=prefix) for meta in batch)

        return self._waiting("list", prefix, listed)

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
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
        """The URL."""
        return f"{self._url}/{key}"

    def _unreachable(self, verb: str, key: str, error: Exception) -> StoreError:
        return StoreError(
            f"cannot {verb} {self.describe(key)}: {first_line(error)}; check the bucket, storage.endpoint, and the credentials in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def _cause(error: Exception) -> str:
    """What happened, without what was tried: that names time limits, which are no time-out."""
    return first_line(error).rpartition(" - ")[2]
