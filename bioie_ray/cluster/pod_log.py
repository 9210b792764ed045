"""Following a container's log through the API server without losing or repeating a line, whatever happens to the connection.

Every line is asked for with its time stamp. After a break the log is read again from just before the last second seen, and lines
already given (by time stamp and text) are passed over. A replaced submitter pod begins the driver's log anew (`ray job logs`), so
the driver's lines of one Ray job are also matched across pods (`DriverLines`).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from bioie_ray.cluster.api import ApiError, Cluster, UnreachableError

# Time stamps of stdout and stderr may be out of order by a little, and `sinceTime` counts whole seconds.
_OVERLAP_S = 2
_READ_TIMEOUT_S = 45.0  # a silent log looks like a dead connection: read again after this long
_MIN_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 5.0


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a container's log, with the time stamp that its node gave it (RFC 3339 with nanoseconds)."""

    stamp: str
    text: str


@dataclass(slots=True)
class SeenLines:
    """The lines of the last moments, so that reading them again gives none twice."""

    _recent: deque[LogLine] = field(default_factory=deque)
    _counts: Counter[LogLine] = field(default_factory=Counter)
    _again: Counter[LogLine] = field(default_factory=Counter)
    _newest: str = ""

    def since(self) -> str | None:
        """Where to read on from, or None for the beginning; call it once before each new reading."""
        self._again = Counter(self._counts)
        if not self._newest:
            return None
        return _iso(_second(self._newest) - timedelta(seconds=_OVERLAP_S))

    def is_new(self, line: LogLine) -> bool:
        """Whether a line was not given before; it is remembered as given."""
        if self._again.get(line, 0) > 0:
            self._again[line] -= 1
            return False
        self._recent.append(line)
        self._counts[line] += 1
        if line.stamp > self._newest:
            self._newest = line.stamp
            oldest = _second(self._newest) - timedelta(seconds=2 * _OVERLAP_S)
            while self._recent and _second(self._recent[0].stamp) < oldest:
                old = self._recent.popleft()
                self._counts[old] -= 1
                if self._counts[old] <= 0:
                    del self._counts[old]
        return True


class DriverLines:
    """The driver's log of one Ray job, which a new submitter pod prints from its beginning: what was given is passed over once more."""

    def __init__(self) -> None:
        self._given: list[int] = []
        self._position = 0

    def restart(self) -> None:
        """Another pod begins to print the same log."""
        self._position = 0

    def is_new(self, text: str) -> bool:
        """Whether the line goes on from what earlier pods gave; a line of the new pod's own is merged in where it stands."""
        mark = hash(text)
        try:
            self._position = self._given.index(mark, self._position) + 1
        except ValueError:
            self._given.insert(self._position, mark)
            self._position += 1
            return True
        return False


def follow_container(
    cluster: Cluster,
    namespace: str,
    pod: str,
    container: str,
    *,
    follow: bool = True,
    tail: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
    on_break: Callable[[str], None] = lambda _reason: None,
) -> Iterator[str]:
    """The lines of a container's log, each once; ends when the container has ended (or at once without `follow`).

    Args:
        cluster: where.
        namespace: of the pod.
        pod: its name.
        container: its container.
        follow: wait for further lines while the container runs.
        tail: only so many of the last lines there are now.
        stopped: asked between lines and readings; true ends it.
        on_break: told the reason whenever the connection broke and is made again.

    Raises:
        ApiError: the server refuses (no such pod, no right to its log).
    """
    reader = _Reader(cluster, namespace, pod, container, tail, stopped, on_break)
    if not follow:
        yield from reader.read(follow=False)
        return
    while not stopped():
        yield from reader.read(follow=True)
        if reader.is_over:
            return
        # The stream ended: the container ended (then one more reading gets what came last), or something cut it off.
        if reader.was_cut or not _has_ended(cluster, namespace, pod, container):
            reader.wait()
            continue
        yield from reader.read(follow=False)
        if not reader.was_cut:
            return


class _Reader:
    """Readings of one container's log, each going on where the one before ended."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        pod: str,
        container: str,
        tail: int | None,
        stopped: Callable[[], bool],
        on_break: Callable[[str], None],
    ) -> None:
        self._cluster, self._namespace, self._pod, self._container = cluster, namespace, pod, container
        self._tail, self._stopped, self._on_break = tail, stopped, on_break
        self._seen = SeenLines()
        self._backoff_s = _MIN_BACKOFF_S
        self.was_cut = False  # the last reading was ended by an error that may pass
        self.is_over = False  # there is nothing more to read, ever

    def read(self, *, follow: bool) -> Iterator[str]:
        """The new lines until the stream ends."""
        query = {"container": self._container, "timestamps": "true", "follow": str(follow).lower()}
        since = self._seen.since()
        if since is not None:
            query["sinceTime"] = since
        elif self._tail is not None:
            query["tailLines"] = str(self._tail)
        self.was_cut = False
        try:
            for raw in self._cluster.lines(f"{self._path}/log", query, read_timeout_s=_READ_TIMEOUT_S):
                line = _parse(raw)
                if self._seen.is_new(line):
                    yield line.text
                self._backoff_s = _MIN_BACKOFF_S
                if self._stopped():
                    return
        except UnreachableError as error:
            self.was_cut = True
            if "timed out" not in str(error):
                self._on_break(str(error))
            # the server answers and the pod's node does not, for long: the pod may be given up
            self.is_over = bool(error.status) and self._backoff_s == _MAX_BACKOFF_S and _is_given_up(self._cluster, self._path)
        except ApiError as error:
            self.was_cut = error.status == 400 and "waiting to start" in error.server_message and follow
            self.is_over = error.status == 404 and since is not None  # the pod is gone, and so is its log
            if not self.was_cut and not self.is_over:
                raise

    def wait(self) -> None:
        """Before the next reading: longer each time that one gave nothing."""
        time.sleep(self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, _MAX_BACKOFF_S)

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods/{self._pod}"


def _has_ended(cluster: Cluster, namespace: str, pod: str, container: str) -> bool:
    try:
        found = cluster.find(f"/api/v1/namespaces/{namespace}/pods/{pod}")
    except UnreachableError:
        return False
    if found is None:
        return True
    statuses = (found.get("status") or {}).get("containerStatuses") or ()
    return any(status.get("name") == container and "terminated" in (status.get("state") or {}) for status in statuses)


def _is_given_up(cluster: Cluster, path: str) -> bool:
    """Whether the pod is to go while its node does not answer: its log will not be readable again."""
    try:
        found = cluster.find(path)
    except UnreachableError:
        return False
    return found is None or bool(found["metadata"].get("deletionTimestamp"))


def _parse(raw: bytes) -> LogLine:
    stamp, _, text = raw.decode(errors="replace").partition(" ")
    return LogLine(stamp, text.rstrip("\r"))


def _second(stamp: str) -> datetime:
    """A time stamp cut to its second; now for a line without one."""
    try:
        return datetime.fromisoformat(stamp).astimezone(UTC).replace(microsecond=0)
    except ValueError:
        return datetime.now(UTC)


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def new_lines(texts: Iterable[str], driver: DriverLines) -> Iterator[str]:
    """Of a pod's lines those that go on from what earlier pods of the same Ray job gave."""
    driver.restart()
    return (text for text in texts if driver.is_new(text))
