"""All logs of one job as one stream of lines: its driver's through every submitter pod, and its Ray pods'."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bioie_ray.cluster.api import RAY, Cluster, ClusterError, UnreachableError
from bioie_ray.cluster.pod_log import DriverLines, follow_container, new_lines
from bioie_ray.cluster.snapshot import job_pods, result_of

Json = Mapping[str, Any]

DRIVER = "driver"
_POLL_S = 1.5


@dataclass(frozen=True, slots=True)
class Line:
    """A line and where it comes from: `driver`, or the name of a pod. A note is ours (a broken connection), not the pod's."""

    source: str
    text: str
    is_note: bool = False


class JobLogs:
    """Threads that read the logs of a job into one queue. What ends one early is kept in `error`, and raised by `check`."""

    def __init__(
        self, cluster: Cluster, namespace: str, name: str, *, follow: bool, driver: bool = True, pods: bool = False, tail: int | None = None
    ) -> None:
        self.lines: queue.Queue[Line] = queue.Queue(maxsize=10_000)
        self._cluster, self._namespace, self._name = cluster, namespace, name
        self._follow, self._tail = follow, tail
        self._stop = threading.Event()
        self.error: ClusterError | None = None  # what ended a reader early
        readers = [reader for wanted, reader in ((driver, self._read_driver), (pods, self._read_pods)) if wanted]
        self._threads = [threading.Thread(target=self._guarded, args=(reader,), daemon=True) for reader in readers]

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End at the next line or after the next reading."""
        self._stop.set()

    @property
    def is_done(self) -> bool:
        """No reader is left, and no line either."""
        return self.lines.empty() and not any(thread.is_alive() for thread in self._threads)

    def check(self) -> None:
        """Raise what ended a reader early.

        Raises:
            ClusterError: the server refused to give a log, for example.
        """
        if self.error is not None:
            raise self.error

    def next(self, timeout_s: float) -> Line | None:
        """The next line, or None when none came in time."""
        try:
            return self.lines.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _guarded(self, reader: Callable[[], None]) -> None:
        try:
            reader()
        except ClusterError as error:
            self.error = error

    def _put(self, source: str, text: str, *, is_note: bool = False) -> None:
        while not self._stop.is_set():
            try:
                self.lines.put(Line(source, text, is_note), timeout=1.0)
            except queue.Full:
                continue
            return

    def _read_driver(self) -> None:
        """Submitter pods one after the other: a replaced one goes on, one of another attempt begins anew."""
        done: set[str] = set()
        given: dict[str, DriverLines] = {}
        while not self._stop.is_set():
            is_over, pods = self._look()
            fresh = sorted((p for p in pods if _is_submitter(p) and _uid(p) not in done and _has_started(p)), key=_created)
            for pod in fresh:
                done.add(_uid(pod))
                driver = given.setdefault(_submission_id(pod), DriverLines())
                container = pod["spec"]["containers"][0]["name"]
                for text in new_lines(self._container(pod, container, tail=self._tail), driver):
                    self._put(DRIVER, text)
            if not fresh and (is_over or not self._follow):
                return
            if not fresh:
                self._stop.wait(_POLL_S)

    def _read_pods(self) -> None:
        """Every Ray pod in a thread of its own, as they come."""
        threads: dict[str, threading.Thread] = {}
        while not self._stop.is_set():
            is_over, pods = self._look()
            for pod in pods:
                if not _is_submitter(pod) and _uid(pod) not in threads and _has_started(pod):
                    threads[_uid(pod)] = threading.Thread(target=self._guarded, args=(lambda pod=pod: self._read_pod(pod),), daemon=True)
                    threads[_uid(pod)].start()
            if is_over or not self._follow:
                break
            self._stop.wait(_POLL_S)
        for thread in threads.values():
            # after the job is over its pods go on idling: their logs hold nothing more that is of the job
            thread.join(timeout=None if not self._follow else 5.0)

    def _read_pod(self, pod: Json) -> None:
        for text in self._container(pod, pod["spec"]["containers"][0]["name"], tail=self._tail):
            self._put(pod["metadata"]["name"], text)

    def _container(self, pod: Json, container: str, *, tail: int | None) -> Any:
        name = pod["metadata"]["name"]
        return follow_container(
            self._cluster,
            self._namespace,
            name,
            container,
            follow=self._follow,
            tail=tail,
            stopped=self._stop.is_set,
            on_break=lambda reason: self._put(name, f"the connection broke ({reason}); reading on", is_note=True),
        )

    def _look(self) -> tuple[bool, tuple[Json, ...]]:
        """Whether the job is over or gone, and its pods."""
        try:
            job = self._cluster.find(f"{RAY}/namespaces/{self._namespace}/rayjobs/{self._name}")
            owned = f"ray.io/originated-from-crd=RayJob,ray.io/originated-from-cr-name={self._name}"
            clusters = tuple(self._cluster.items(f"{RAY}/namespaces/{self._namespace}/rayclusters", labels=owned))
            pods = job_pods(self._cluster, self._namespace, self._name, clusters)
        except UnreachableError:
            return False, ()
        return job is None or result_of(job.get("status") or {}) is not None, pods


def _is_submitter(pod: Json) -> bool:
    return "batch.kubernetes.io/job-name" in (pod["metadata"].get("labels") or {})


def _uid(pod: Json) -> str:
    return str(pod["metadata"]["uid"])


def _created(pod: Json) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")


def _has_started(pod: Json) -> bool:
    """Whether its first container has a log."""
    name = pod["spec"]["containers"][0]["name"]
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return any(s.get("name") == name and ({"running", "terminated"} & set(s.get("state") or {})) for s in statuses)


def _submission_id(pod: Json) -> str:
    """Which Ray job a submitter pod follows; the operator puts that into its environment."""
    environment = {e.get("name"): e.get("value") for c in pod["spec"]["containers"] for e in c.get("env") or ()}
    return str(environment.get("RAY_JOB_SUBMISSION_ID") or _uid(pod))
