"""What the API server says about one job at one moment: the RayJob, what it owns, and what its pods compete for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bioie_ray.cluster.api import RAY, ApiError, Cluster

Json = Mapping[str, Any]

_OPERATOR = "app.kubernetes.io/component=kuberay-operator"  # both the Helm chart and the kustomization label it so
_OWNED = "ray.io/originated-from-crd=RayJob,ray.io/originated-from-cr-name={name}"
KUEUE = "/apis/kueue.x-k8s.io"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Objects as the API server gives them; None where they were not asked for or may not be read."""

    name: str
    namespace: str
    now: datetime
    job: Json | None
    clusters: tuple[Json, ...] = ()
    pods: tuple[Json, ...] = ()
    events: tuple[Json, ...] = ()
    operators: tuple[Json, ...] | None = None
    nodes: tuple[Json, ...] | None = None
    all_pods: tuple[Json, ...] | None = None
    workloads: tuple[Json, ...] | None = None
    unreadable: tuple[str, ...] = field(default=())

    @property
    def status(self) -> Json:
        """The RayJob's status; empty before the operator has seen it."""
        return (self.job or {}).get("status") or {}

    @property
    def age_s(self) -> float:
        """Seconds since the RayJob was created."""
        return age_s(self.job or {}, self.now)

    @property
    def result(self) -> str | None:
        """``SUCCEEDED``, ``FAILED`` or ``STOPPED`` when the job is over (all attempts), else None."""
        return result_of(self.status)


def result_of(status: Json) -> str | None:
    """How a RayJob ended, or None while it may still go on (a failed attempt that is tried again included)."""
    deployment = status.get("jobDeploymentStatus")
    if deployment == "Complete":
        return str(status.get("jobStatus") or "SUCCEEDED")
    return "FAILED" if deployment in {"Failed", "ValidationFailed"} else None


def age_s(thing: Json, now: datetime) -> float:
    """Seconds since an object was created; 0 for one that has no time stamp yet."""
    created = parse_time(thing.get("metadata", {}).get("creationTimestamp"))
    return 0.0 if created is None else (now - created).total_seconds()


def parse_time(text: str | None) -> datetime | None:
    """A time stamp of Kubernetes (RFC 3339), or None where there is none."""
    return None if not text else datetime.fromisoformat(text).astimezone(UTC)


def event_time(event: Json) -> datetime | None:
    """When an event was last seen; the field depends on the API that wrote it."""
    series = event.get("series") or {}
    return parse_time(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp"))


def gather(cluster: Cluster, namespace: str, name: str) -> Snapshot:
    """Ask for everything that explains this job now; the costly parts (nodes, all pods, operator, queue) only where they matter.

    Raises:
        ApiError: the RayJob itself cannot be read.
    """
    job = cluster.find(f"{RAY}/namespaces/{namespace}/rayjobs/{name}")
    if job is None:
        return Snapshot(name, namespace, cluster.now(), None)
    unreadable: list[str] = []
    ask = partial(_ask, cluster, unreadable)
    clusters = ask(f"{RAY}/namespaces/{namespace}/rayclusters", labels=_OWNED.format(name=name)) or ()
    pods = job_pods(cluster, namespace, name, clusters)
    status = job.get("status") or {}
    if result_of(status) or (status.get("jobDeploymentStatus") == "Running" and pods and all(map(_runs_well, pods))):
        return Snapshot(name, namespace, cluster.now(), job, clusters, pods)
    waiting = [pod for pod in pods if unschedulable_message(pod)]
    ended = any(pod.get("status", {}).get("phase") in {"Succeeded", "Failed"} for pod in pods)
    queued = "kueue.x-k8s.io/queue-name" in (job["metadata"].get("labels") or {})
    return Snapshot(
        name=name,
        namespace=namespace,
        now=cluster.now(),
        job=job,
        clusters=clusters,
        pods=pods,
        events=ask(f"/api/v1/namespaces/{namespace}/events") or (),
        operators=None if status.get("jobDeploymentStatus") and pods and not ended else ask("/apis/apps/v1/deployments", labels=_OPERATOR),
        nodes=ask("/api/v1/nodes") if waiting else None,
        all_pods=ask("/api/v1/pods") if waiting else None,
        workloads=_workloads(cluster, namespace) if queued else None,
        unreadable=tuple(unreadable),
    )


def gather_standing(cluster: Cluster, namespace: str, standing: Json) -> Snapshot:
    """The same for a standing RayCluster: as if it were a job of its own that runs.

    Raises:
        ApiError: its pods cannot be read.
    """
    unreadable: list[str] = []
    ask = partial(_ask, cluster, unreadable)
    name = standing["metadata"]["name"]
    pods = tuple(cluster.items(f"/api/v1/namespaces/{namespace}/pods", labels=f"ray.io/cluster={name}"))
    waiting = [pod for pod in pods if unschedulable_message(pod)]
    return Snapshot(
        name=name,
        namespace=namespace,
        now=cluster.now(),
        job={"metadata": standing["metadata"], "spec": {}, "status": {"jobDeploymentStatus": "Running"}},
        clusters=(cluster.find(f"{RAY}/namespaces/{namespace}/rayclusters/{name}") or standing,),
        pods=pods,
        events=ask(f"/api/v1/namespaces/{namespace}/events") or (),
        nodes=ask("/api/v1/nodes") if waiting else None,
        all_pods=ask("/api/v1/pods") if waiting else None,
        unreadable=tuple(unreadable),
    )


def _ask(cluster: Cluster, unreadable: list[str], path: str, **selectors: str) -> tuple[Json, ...] | None:
    """The objects of a collection; None, and a word in `unreadable`, where they may not be read."""
    try:
        return tuple(cluster.items(path, **selectors))
    except ApiError as error:
        if error.status not in {403, 404}:
            raise
        if error.status == 403:
            unreadable.append(path.rsplit("/", 1)[-1])
        return None


def job_pods(cluster: Cluster, namespace: str, name: str, clusters: tuple[Json, ...]) -> tuple[Json, ...]:
    """The pods of a job: its submitter's, and those of its Ray clusters (one for each attempt)."""
    pods = cluster.items(f"/api/v1/namespaces/{namespace}/pods", labels=f"batch.kubernetes.io/job-name={name}")
    if clusters:
        names = ",".join(c["metadata"]["name"] for c in clusters)
        pods += cluster.items(f"/api/v1/namespaces/{namespace}/pods", labels=f"ray.io/cluster in ({names})")
    return tuple(pods)


def unschedulable_message(pod: Json) -> str | None:
    """What the scheduler says about a pod that it finds no node for."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False" and condition.get("reason") == "Unschedulable":
            return str(condition.get("message") or "no node fits")
    return None


def _runs_well(pod: Json) -> bool:
    """Whether there is nothing to explain about a pod. One that ended is worth a look: the operator should have seen it."""
    status = pod.get("status", {})
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    return status.get("phase") == "Running" and ready and not pod["metadata"].get("deletionTimestamp")


def _workloads(cluster: Cluster, namespace: str) -> tuple[Json, ...] | None:
    """Kueue's view of what waits; None where Kueue is not installed."""
    group = cluster.find(KUEUE)
    if group is None:
        return None
    version = group["preferredVersion"]["version"]
    try:
        return tuple(cluster.items(f"{KUEUE}/{version}/namespaces/{namespace}/workloads"))
    except ApiError as error:
        if error.status in {403, 404}:
            return ()
        raise
