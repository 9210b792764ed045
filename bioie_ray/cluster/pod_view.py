"""A pod in words: what it is to a job, and how it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]


def role_of(pod: Json) -> tuple[str, str]:
    """What a pod is to a job, and the part of a recipe that sizes it."""
    labels = pod["metadata"].get("labels") or {}
    kind = labels.get("ray.io/node-type")
    if kind == "head":
        return "the head pod", "cluster.kube.head"
    if kind == "worker":
        group = labels.get("ray.io/group", "")
        return f"a worker pod of group {group}", f"cluster.kube.workers.{group}"
    return "the submitter pod", "cluster.kube"


def pod_state(pod: Mapping[str, Any]) -> str:
    """A pod's state as kubectl shows it: the reason that a container waits or ended, else the phase."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in statuses:
        state = container.get("state") or {}
        if "running" in state and status.get("phase") == "Pending":
            return str(container["name"])  # an init container at work: a worker waits for its head by one
        if "waiting" in state and state["waiting"].get("reason") not in {None, "PodInitializing"}:
            # the two alternate every few seconds
            return str(state["waiting"]["reason"]).replace("ErrImagePull", "ImagePullBackOff")
        if "terminated" in state and state["terminated"].get("exitCode"):
            return str(state["terminated"].get("reason") or "Error")
    if status.get("phase") == "Running" and not all(c.get("ready") for c in status.get("containerStatuses") or ()):
        return "Running, not ready"
    return str(status.get("reason") or status.get("phase") or "Pending")
