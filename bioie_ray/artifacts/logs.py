"""The driver's log, kept in the store: pods and their logs go when a job's time to live is over, this stays.

    _logs/demo-1a2b3c4d/
      driver.log      what the latest attempt printed, on standard output and standard error
      driver-1.log    the first attempt, and so on: a RayJob that is retried keeps its name

Whole objects are put every quarter of a minute and at the end, so a driver that is killed loses at most that. What Ray's own
C++ code prints before it aborts is not in it (that ends the process before anything could be put); the pod's log has it.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from bioie_ray.artifacts.store import Store, StoreError

LOGS = "_logs"
_LATEST = "driver.log"
_EARLIER = re.compile(r"/driver-(\d+)\.log$")
_EVERY_S = 15.0
# A store that is away must not keep a driver that was told to end; Ray kills it 3 s after `ray job stop`.
_LAST_PUT_S = 2.0
_HEAD_CHARS, _TAIL_CHARS = 200_000, 800_000
# An access key's id is none: it is a name, and may be a word of the store's address too.
_SECRET_NAME = re.compile(r"(SECRET|TOKEN(?!IZER)|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY(?!_ID)|PRIVATE_KEY)", re.IGNORECASE)
_SHORTEST_SECRET = 6  # what is shorter is a word of other lines too


def job_name(environment: Mapping[str, str]) -> str | None:
    """The name a job was submitted under: ``BIOIE_JOB_NAME`` of a manifest, else the submission id of ``ray job submit``."""
    name = environment.get("BIOIE_JOB_NAME")
    if not name:
        try:
            name = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))["metadata"]["job_submission_id"]
        except (ValueError, KeyError, TypeError):
            return None
    return re.sub(r"[^A-Za-z0-9_.-]", "-", str(name)).strip(".") or None


def driver_log_key(name: str) -> str:
    """Where the latest attempt of a job has its log, relative to the store."""
    return f"{LOGS}/{name}/{_LATEST}"


class DriverLog:
    """Text that is put to the store as it grows; head and tail are kept of what is too long, and no secret of the environment."""

    def __init__(self, store: Store, name: str, environment: Mapping[str, str]) -> None:
        self._store = store
        self._key = driver_log_key(name)
        # Longest first: a secret may hold another one.
        found = {value for key, value in environment.items() if _SECRET_NAME.search(key) and len(value) >= _SHORTEST_SECRET}
        self._secrets = sorted(found, key=len, reverse=True)
        self._lock = threading.Lock()
        self._head = ""
        self._tail = ""
        self._num_left_out = 0
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._said = False
        self._thread = threading.Thread(target=self._keep_putting, daemon=True, name="driver log")
        self.attempt = 1

    def open(self) -> None:
        """Put an earlier attempt's log aside, and begin.

        Raises:
            StoreError: the store cannot be reached.
        """
        folder = self._key.rpartition("/")[0]
        numbers = [int(found[1]) for key in self._store.keys(folder) if (found := _EARLIER.search(key))]
        self.attempt = max(numbers, default=0) + 1
        try:
            earlier = self._store.read(self._key)
        except FileNotFoundError:
            pass
        else:
            self._store.write(f"{folder}/driver-{self.attempt}.log", earlier)
            self.attempt += 1
        self.write(f"attempt {self.attempt}, begun {datetime.now(UTC).isoformat(timespec='seconds')}\n")
        self._store.write(self._key, self.text().encode())
        self._thread.start()

    def write(self, text: str) -> None:
        """Add text."""
        with self._lock:
            room = _HEAD_CHARS - len(self._head)
            if room > 0:
                self._head += text[:room]
                text = text[room:]
            self._tail += text
            if len(self._tail) > 2 * _TAIL_CHARS:  # cut seldom: a cut copies what stays
                self._num_left_out += len(self._tail) - _TAIL_CHARS
                self._tail = self._tail[-_TAIL_CHARS:]
        self._changed.set()

    def text(self) -> str:
        """What is put: the head, how much was left out, the tail."""
        with self._lock:
            tail, num_left_out = self._tail[-_TAIL_CHARS:], self._num_left_out + max(0, len(self._tail) - _TAIL_CHARS)
            text = f"{self._head}\n[... {num_left_out:,} characters left out ...]\n{tail}" if num_left_out else self._head + tail
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def close(self) -> None:
        """Put the rest; a store that does not answer at once is not waited for."""
        self._closing.set()
        self._thread.join(_LAST_PUT_S)

    def _keep_putting(self) -> None:
        last = False
        while not last:
            last = self._closing.wait(_EVERY_S)
            if self._changed.is_set():
                self._changed.clear()
                self._put()

    def _put(self) -> None:
        try:
            self._store.write(self._key, self.text().encode(errors="replace"))
        except StoreError as error:
            self._changed.set()  # tried again, whole, at the next turn
            if not self._said:
                self._said = True
                print(f"the log is not in the store: {error}", file=sys.stderr, flush=True)


class _Tee(io.TextIOBase):
    """A stream that goes where it went, and into the log; it is no terminal, because a log has no bars."""

    def __init__(self, stream: TextIO, write: Callable[[str], None]) -> None:
        self._stream = stream
        self._write = write

    def write(self, text: str) -> int:
        self._write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only here, as in every wrapper of a stream
        return self._stream.encoding


@contextmanager
def kept_log(store: Store, name: str | None) -> Iterator[int]:
    """Meanwhile keep what this process prints under the job's name, if it has one; yields the number of the attempt.

    Raises:
        StoreError: the store cannot be reached.
    """
    if name is None:
        yield 1
        return
    log = DriverLog(store, name, os.environ)
    log.open()
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Tee(stream, log.write) for stream in streams)
    try:
        yield log.attempt
    except ValueError as error:
        log.write(f"error: {error}\n")  # as the command line prints it when all this is closed
        raise
    except Exception:
        log.write(traceback.format_exc())  # Python prints it only after this, where nothing is kept any more
        raise
    finally:
        sys.stdout, sys.stderr = streams
        log.close()
