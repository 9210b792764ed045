"""What a run uses of its cluster: seconds of pods, CPUs and GPUs by group, peak memory, retries.

Sampled, not billed: a look every five seconds, so each pod's time is right to some seconds. It begins when the driver joins
Ray, so that the start of the head pod before that is not in it.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EVERY_S = 5.0
LOCAL = "local"
# In a container these are its own; the root of a machine's tree has no such file. The first is cgroup v2.
_CGROUP_PEAKS = (Path("/sys/fs/cgroup/memory.peak"), Path("/sys/fs/cgroup/memory/memory.max_usage_in_bytes"))


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster that is up: its group, and what Ray counts on there."""

    id: str
    group: str
    cpus: float
    gpus: float


@dataclass
class _Group:
    pod_seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    process_mib: float = 0.0
    pod_mib: float = 0.0


@dataclass(frozen=True, slots=True)
class Retries:
    """Units that had to be begun again, by why."""

    worker_deaths: int = 0
    lost_nodes: int = 0


class Meter:
    """The usage of one run so far. Outputs that one run makes share it: a record has what the run used until that output was finished."""

    def __init__(self, attempt: int = 1) -> None:
        self._retries = Retries()
        self._attempt = attempt
        self._begun = self._last = time.monotonic()
        self._groups: dict[str, _Group] = {}
        self._group_of: dict[str, str] = {}
        self._look: Callable[[], Iterable[Node]] | None = None
        self._here = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def watch(self, look: Callable[[], Iterable[Node]], here: str = "") -> None:
        """Sample the cluster from now on; ``here`` is the driver's own node. A second call changes nothing."""
        if self._look is None:
            self._look, self._here = look, here
            self._last = time.monotonic()
            self._sample()
            threading.Thread(target=self._keep_sampling, daemon=True, name="usage").start()

    def stop(self) -> None:
        """Sample no more."""
        self._stop.set()

    def saw(self, node: str, process_mib: float, pod_mib: float, retries: Retries) -> None:
        """Note what a worker on a node reports of a unit: memory peaks of its process and its pod (0: not known), and retries."""
        deaths, lost = (self._retries.worker_deaths + retries.worker_deaths, self._retries.lost_nodes + retries.lost_nodes)
        self._retries = Retries(deaths, lost)
        if node not in self._group_of:
            self._sample()
        group = self._groups.setdefault(self._group_of.get(node, LOCAL), _Group())
        group.process_mib = max(group.process_mib, process_mib)
        group.pod_mib = max(group.pod_mib, pod_mib)

    def snapshot(self) -> dict[str, Any]:
        """What a record holds under ``usage``: seconds and MiB.

        ``wall_s`` and the groups' seconds run from the beginning of the run. Runs before this one are not in it, of an output
        that was resumed; ``attempts`` counts them for a job with a name.
        """
        wall_s = time.monotonic() - self._begun
        if self._look is None:
            cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
            groups = {LOCAL: _Group(wall_s, wall_s * cpus, 0.0, *memory_peaks_mib())}
        else:
            if self._here:  # no unit runs on the head, so nobody else reports of it
                self.saw(self._here, *memory_peaks_mib(), Retries())
            self._sample()
            groups = self._groups
        return {
            "wall_s": round(wall_s, 3),
            "attempts": self._attempt,
            "groups": {name: _to_json(groups[name]) for name in sorted(groups)},
            "retries": {"worker_deaths": self._retries.worker_deaths, "lost_nodes": self._retries.lost_nodes},
        }

    def _keep_sampling(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._sample()

    def _sample(self) -> None:
        assert self._look is not None
        with self._lock:
            try:
                nodes = list(self._look())
            except Exception:  # noqa: BLE001 - Ray that does not answer is for the work itself to report; the next look makes up for it
                return
            moment = time.monotonic()
            passed, self._last = moment - self._last, moment
            for node in nodes:
                self._group_of[node.id] = node.group
                group = self._groups.setdefault(node.group, _Group())
                group.pod_seconds += passed
                group.cpu_seconds += passed * node.cpus
                group.gpu_seconds += passed * node.gpus


def _to_json(group: _Group) -> dict[str, float]:
    return {
        "pod_seconds": round(group.pod_seconds, 1),
        "cpu_seconds_reserved": round(group.cpu_seconds, 1),
        "gpu_seconds": round(group.gpu_seconds, 1),
        "peak_memory_mib": round(group.pod_mib or group.process_mib, 1),
        "peak_process_mib": round(group.process_mib, 1),
    }


def memory_peaks_mib() -> tuple[float, float]:
    """Highest memory so far of this process, and of its pod (0 where the machine does not tell, or it is no container)."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    process = kib / 2**10 if sys.platform == "linux" else kib / 2**20  # bytes on macOS
    for path in _CGROUP_PEAKS:
        try:
            return process, int(path.read_text()) / 2**20
        except (OSError, ValueError):
            continue
    return process, 0.0


@dataclass(frozen=True)
class Monitor:
    """What goes along with a run: its meter, and how to say a line to people."""

    meter: Meter = field(default_factory=Meter)
    say: Callable[[str], None] = field(default=lambda text: print(text, file=sys.stderr, flush=True))
