"""Kubernetes objects as an API server gives them (shapes taken from Kubernetes 1.34 with KubeRay 1.6.2), cut to what matters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bioie_ray.cluster.snapshot import Snapshot

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
JOB = "demo-1a2b3c4d"
RAY_CLUSTER = f"{JOB}-x7k2p"
NAMESPACE = "bioie"
Json = dict[str, Any]


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def rayjob(age_s: float = 20, *, spec: Mapping[str, Any] | None = None, labels: Mapping[str, str] | None = None, **status: Any) -> Json:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": JOB, "namespace": NAMESPACE, "uid": "job-uid", "creationTimestamp": ago(age_s), "labels": dict(labels or {})},
        "spec": {"activeDeadlineSeconds": 3600, **(spec or {})},
        "status": {"jobDeploymentStatus": "Initializing", "rayClusterName": RAY_CLUSTER, **status},
    }


def raycluster(*conditions: Json) -> Json:
    return {
        "metadata": {"name": RAY_CLUSTER, "namespace": NAMESPACE, "creationTimestamp": ago(18)},
        "status": {"conditions": list(conditions)},
    }


def pod(role: str = "head", *, phase: str = "Pending", requests: Mapping[str, str] | None = None, **parts: Any) -> Json:
    """A head, a worker (of group `gpu`) or a submitter; `parts` replace fields of its status, or `metadata` and `spec`."""
    container = {"head": "ray-head", "worker": "ray-worker", "submitter": "ray-job-submitter"}[role]
    labels = {
        "head": {"ray.io/cluster": RAY_CLUSTER, "ray.io/node-type": "head", "ray.io/group": "headgroup"},
        "worker": {"ray.io/cluster": RAY_CLUSTER, "ray.io/node-type": "worker", "ray.io/group": "gpu"},
        "submitter": {"batch.kubernetes.io/job-name": JOB, "job-name": JOB},
    }[role]
    resources = {"requests": dict(requests or {"cpu": "2", "memory": "8Gi"}), "limits": {"memory": "8Gi"}}
    name = f"{JOB}-{role}-abcde"
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels, "creationTimestamp": ago(15), **parts.pop("metadata", {})},
        "spec": {
            "containers": [{"name": container, "image": "localhost:5000/bioie-ray:x", "resources": resources}],
            **parts.pop("spec", {}),
        },
        "status": {"phase": phase, **parts},
    }


def container(state: Json, *, name: str = "ray-head", image: str = "localhost:5000/bioie-ray:x", **more: Any) -> Json:
    return {"name": name, "image": image, "ready": False, "restartCount": 0, "lastState": {}, "state": state, **more}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def unschedulable(message: str) -> Json:
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}


def ready(value: str = "True") -> Json:
    return {"type": "Ready", "status": value}


def node(name: str = "node-1", *, is_ready: str = "True", spec: Mapping[str, Any] | None = None, **allocatable: str) -> Json:
    amounts = {key.replace("_", "-"): value for key, value in allocatable.items()}
    amounts = {"nvidia.com/gpu" if key == "gpu" else key: value for key, value in amounts.items()}
    return {"metadata": {"name": name}, "spec": dict(spec or {}), "status": {"allocatable": amounts, "conditions": [ready(is_ready)]}}


def event(kind: str, name: str, reason: str, message: str, *, age_s: float = 3, type: str = "Warning", count: int = 1) -> Json:
    return {
        "involvedObject": {"kind": kind, "name": name, "namespace": NAMESPACE},
        "reason": reason,
        "message": message,
        "type": type,
        "count": count,
        "firstTimestamp": ago(age_s + 5),
        "lastTimestamp": ago(age_s),
    }


def operator(replicas: int = 1, ready_replicas: int | None = None) -> Json:
    status = {} if ready_replicas is None else {"readyReplicas": ready_replicas}
    return {
        "metadata": {"name": "kuberay-operator", "namespace": "kuberay-system"},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"image": "quay.io/kuberay/operator:v1.6.2"}]}}},
        "status": status,
    }


def snapshot(job: Json | None = None, **parts: Any) -> Snapshot:
    return Snapshot(
        JOB, NAMESPACE, NOW, rayjob() if job is None else job, **{key: tuple(value) for key, value in parts.items() if value is not None}
    )
