"""Waiting for a RayJob without ever being silent: causes as they show, the driver's log as it comes, the result at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bioie_ray.cluster.api import Cluster, UnreachableError
from bioie_ray.cluster.explain import Finding, explain
from bioie_ray.cluster.job_logs import JobLogs
from bioie_ray.cluster.pod_view import pod_state, role_of
from bioie_ray.cluster.snapshot import Snapshot, gather
from bioie_ray.cluster.terminal import note, show_line

_POLL_S = 2.0
_HEARTBEAT_S = 12.0
_UNREACHABLE_LIMIT_S = 300.0
_DRAIN_S = 15.0
_OUT_OF_SIGHT_S = 20.0
_SAY_AGAIN_S = 60.0


@dataclass(slots=True)
class Watch:
    """What was said so far, and since when each cause lasts. Pure but for its clock, which is given."""

    patience_s: float
    _since: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)

    def look(self, findings: list[Finding], now: float) -> tuple[list[Finding], Finding | None]:
        """The causes that are new, and the one that ends the waiting, if any.

        A cause may be out of sight for some moments (a pod that crashes is made anew) and is still the same.
        """
        self._seen |= dict.fromkeys((finding.key for finding in findings), now)
        self._since = {key: since for key, since in self._since.items() if now - self._seen[key] <= _OUT_OF_SIGHT_S}
        new = [finding for finding in findings if finding.key not in self._since]
        self._since |= dict.fromkeys((finding.key for finding in new), now)
        end = next((f for f in findings if f.final or (f.lasting and now - self._since[f.key] >= self.patience_s)), None)
        return new, end


def follow_job(
    cluster: Cluster, namespace: str, name: str, *, timeout_s: float, patience_s: float = 60.0, say: Callable[[str], None] = note
) -> int:
    """Follow a RayJob to its end; returns 0 if it succeeded, else 1.

    Args:
        cluster: where.
        namespace: of the job.
        name: of the RayJob.
        timeout_s: stop following (not the job) after this long.
        patience_s: how long a cause that does not come right by itself is watched before giving up.
        say: told every sentence.

    Raises:
        ApiError: the server refuses to show the job.
        UnreachableError: it did not answer for five minutes.
    """
    logs = JobLogs(cluster, namespace, name, follow=True)
    logs.start()
    try:
        return _Follower(cluster, namespace, name, logs, Watch(patience_s), say).run(timeout_s)
    finally:
        logs.stop()


class _Follower:
    """One following of one job: looks at it every two seconds, and prints the driver's lines in between."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, logs: JobLogs, watch: Watch, say: Callable[[str], None]) -> None:
        self._cluster, self._namespace, self._name = cluster, namespace, name
        self._logs, self._watch, self._tell = logs, watch, say
        self._started = self._last_output = self._last_answer = time.monotonic()
        self._phase, self._waiting_for = "", ""
        self._said: dict[str, float] = {}
        self._told_error = self._is_away = False

    def run(self, timeout_s: float) -> int:
        """Until the job is over, the time is, or a cause lasts too long."""
        next_look = self._started
        while (now := time.monotonic()) - self._started < timeout_s:
            if now >= next_look:
                next_look = now + _POLL_S
                code = self._look(now)
                if code is not None:
                    return code
            self._print_or_beat(max(0.05, min(0.5, next_look - time.monotonic())))
        name = self._name
        self._say(
            f"stopped following after {timeout_s:.0f} s (--timeout); the job goes on: bioie status {name}, bioie logs {name} --follow"
        )
        return 1

    def _look(self, now: float) -> int | None:
        """Look at the job once; the exit code when the following is over."""
        try:
            snapshot = gather(self._cluster, self._namespace, self._name)
        except UnreachableError as error:
            if now - self._last_answer >= _UNREACHABLE_LIMIT_S:
                raise
            if not self._is_away or now - self._last_output >= _HEARTBEAT_S:
                self._say(f"{error}; trying again")
            self._is_away = True
            return None
        self._last_answer, self._is_away = now, False
        if snapshot.job is None:
            self._say(f"the RayJob {self._name} is gone: someone cancelled it, or it was deleted after it had finished")
            return 1
        if snapshot.job["metadata"].get("deletionTimestamp"):
            self._say(f"the RayJob {self._name} is being deleted; stopped following it")
            return 1
        findings = explain(snapshot)
        if snapshot.result is not None:
            return self._finish(snapshot, findings)
        self._waiting_for = f"; waiting: {findings[0].sentence}" if findings else ""
        new, end = self._watch.look(findings, now)
        for finding in new:
            self._say(f"! {finding}")
        if end is not None:
            self._say(f"giving up: this does not come right by itself. The job is left as it is; bioie cancel {self._name} removes it")
            return 1
        before, self._phase = self._phase, describe(snapshot)
        if self._phase != before and now - self._said.get(self._phase, -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
            self._said[self._phase] = now
            self._say(self._stamped(self._phase))
        return None

    def _print_or_beat(self, wait_s: float) -> None:
        """The driver's next line; or a sign of life after some silence."""
        line = self._logs.next(wait_s)
        if line is not None:
            show_line(line, with_source=False)
            self._last_output = time.monotonic()
        elif self._logs.error is not None and not self._told_error:
            self._told_error = True
            self._say(f"the driver's log cannot be shown: {self._logs.error}")
        elif time.monotonic() - self._last_output >= _HEARTBEAT_S:
            self._say(self._stamped(f"{self._phase}{self._waiting_for}"))

    def _finish(self, snapshot: Snapshot, findings: list[Finding]) -> int:
        """The rest of the driver's log, then how it ended and why."""
        ends = time.monotonic() + _DRAIN_S
        while not self._logs.is_done and time.monotonic() < ends:
            line = self._logs.next(0.3)
            if line is not None:
                show_line(line, with_source=False)
        for finding in findings:
            self._say(f"! {finding}")
        failed = int(snapshot.status.get("failed") or 0)
        attempts = f", {failed} attempts failed" if failed > 1 else ""
        self._say(f"{snapshot.name}: {snapshot.result} after {snapshot.age_s:.0f} s{attempts}")
        return 0 if snapshot.result == "SUCCEEDED" else 1

    def _stamped(self, text: str) -> str:
        return f"{time.monotonic() - self._started:5.0f} s  {text}"

    def _say(self, text: str) -> None:
        self._tell(text)
        self._last_output = time.monotonic()


def describe(snapshot: Snapshot) -> str:
    """Where a job stands, in a few words: its phase, its attempt, its pods by role and state."""
    status = snapshot.status
    words = [str(status.get("jobDeploymentStatus") or "not looked at yet")]
    if status.get("jobStatus") and status["jobStatus"] != words[0].upper():
        words.append(f"job {status['jobStatus']}")
    if status.get("failed"):
        words.append(f"{status['failed']} failed before")
    counts: dict[tuple[str, str], int] = {}
    for pod in snapshot.pods:
        key = (role_of(pod)[0].removeprefix("the ").removeprefix("a "), pod_state(pod))
        counts[key] = counts.get(key, 0) + 1
    pods = [f"{role} {state}{f' x{n}' if n > 1 else ''}" for (role, state), n in sorted(counts.items())]
    return ", ".join(words) + (f"; {', '.join(pods)}" if pods else "; no pods")
