"""What nodes have, what pods ask for, and why a pod finds no node. Pure: Kubernetes objects in, numbers and sentences out.

Quantities are floats in base units: CPUs, bytes, pieces. The scheduler's own sentence ("0/3 nodes are available: 3 Insufficient
cpu") says which resource is short but not by how much; that is computed here, from allocatable minus the requests of running pods.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
Amounts = dict[str, float]

GPU = "nvidia.com/gpu"
_SUFFIXES = {
    **{suffix: 10.0**power for suffix, power in (("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18))},
    **{suffix: 2.0**power for suffix, power in (("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60))},
}  # fmt: skip
_QUANTITY = re.compile(r"^([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]i?|Ki)?$")
_BYTES = frozenset({"memory", "ephemeral-storage", "storage"})


def parse_quantity(text: str | float) -> float:
    """A Kubernetes quantity (``200m``, ``16Gi``, ``1e3``) in base units.

    Raises:
        ValueError: not a quantity.
    """
    match = _QUANTITY.match(str(text).strip())
    if match is None or (match[2] or "") not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a Kubernetes quantity (like 200m or 16Gi)")
    return float(match[1]) * _SUFFIXES[match[2] or ""]


def show_amount(resource: str, amount: float) -> str:
    """An amount as a person writes it: ``2.5 cpu``, ``16 GiB memory``, ``4 nvidia.com/gpu``."""
    kind = resource.removeprefix("requests.").removeprefix("limits.")
    if kind in _BYTES:
        return f"{amount / 2**30:.3g} GiB {resource}" if amount >= 2**29 else f"{amount / 2**20:.3g} MiB {resource}"
    return f"{round(amount, 3):g} {resource}"


def pod_requests(pod: Json) -> Amounts:
    """What the scheduler counts for a pod: the sum of its containers, or its largest init container, plus overhead."""
    spec = pod.get("spec", {})
    total: Amounts = {}
    for container in spec.get("containers") or ():
        _add(total, _requests(container))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            _add(sidecars, _requests(container))
            _raise_to(peak, sidecars)
        else:
            _raise_to(peak, _sum(sidecars, _requests(container)))
    _add(total, sidecars)
    _raise_to(total, peak)
    _add(total, {name: parse_quantity(value) for name, value in (spec.get("overhead") or {}).items()})
    return total


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """One node: what pods may use in all, and what is left of it."""

    name: str
    usable: bool
    allocatable: Amounts
    free: Amounts


def node_capacities(nodes: Iterable[Json], pods: Iterable[Json]) -> list[NodeCapacity]:
    """Capacity of every node, given all pods of the cluster (finished ones count for nothing)."""
    used: dict[str, Amounts] = {}
    for pod in pods:
        node = pod.get("spec", {}).get("nodeName")
        if node and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
            amounts = used.setdefault(node, {})
            _add(amounts, pod_requests(pod))
            _add(amounts, {"pods": 1.0})
    result = []
    for node in nodes:
        name = node["metadata"]["name"]
        allocatable = {key: parse_quantity(value) for key, value in (node.get("status", {}).get("allocatable") or {}).items()}
        taken = used.get(name, {})
        free = {key: max(0.0, value - taken.get(key, 0.0)) for key, value in allocatable.items()}
        result.append(NodeCapacity(name, _is_usable(node), allocatable, free))
    return result


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a pod finds no node. `lasting`: not even an empty cluster of these nodes could hold it."""

    sentence: str
    next_step: str
    lasting: bool


def explain_unschedulable(pod: Json, message: str, nodes: Iterable[Json] | None, pods: Iterable[Json] | None, settings: str) -> Shortage:
    """The scheduler's message, completed by the numbers.

    Args:
        pod: the pod that waits.
        message: of its PodScheduled condition.
        nodes: all nodes, or None where they may not be read.
        pods: all pods of the cluster, or None where they may not be read.
        settings: the part of a recipe that sizes this pod, like ``cluster.kube.workers.gpu``.
    """
    short = list(dict.fromkeys(re.findall(r"Insufficient ([\w./-]+?)[.,;]?(?=\s|$|,)", message)))
    if short:
        return _shortage(
            pod_requests(pod), short, None if nodes is None else node_capacities(nodes, pods or ()), settings, counted=pods is not None
        )
    for pattern, sentence, step, lasting in _OTHER:
        match = re.search(pattern, message)
        if match:
            return Shortage(sentence.format(*match.groups()), step.format(*match.groups(), settings=settings), lasting)
    return Shortage(
        f"the scheduler says: {message.split(' preemption:', maxsplit=1)[0].rstrip('. ')}", "see: kubectl describe nodes", lasting=False
    )


# What the scheduler says when it is not about amounts: pattern, what it means, the next step, whether waiting cannot help
_OTHER = (
    (r'persistentvolumeclaim "([^"]+)" not found', "the PersistentVolumeClaim {0} does not exist in the namespace",
     "create it, or set cluster.kube.storage_claim to one that does", True),
    (r"unbound immediate PersistentVolumeClaims", "its PersistentVolumeClaim is not bound to a volume",
     "see why: kubectl describe pvc; the storage class may have no provisioner", False),
    (r"untolerated taint \{([^}]*?):?\s*\}", "the nodes have the taint {0}, which the pod does not tolerate",
     "add a toleration to {settings}.tolerations, or take the taint off a node", True),
    (r"didn't match Pod's node affinity/selector", "no node has the labels that its node selector asks for",
     "compare {settings}.node_selector with: kubectl get nodes --show-labels", True),
    (r"node\(s\) were unschedulable", "the nodes are cordoned", "kubectl uncordon NODE, or wait for the maintenance to end", False),
    (r"Too many pods", "the nodes hold as many pods as they may", "wait until others end, or add a node", False),
    (r"no nodes available to schedule pods", "the cluster has no node", "add one, and look at the node autoscaler where there is one", False),
)  # fmt: skip


def _shortage(needs: Amounts, short: list[str], nodes: list[NodeCapacity] | None, settings: str, *, counted: bool) -> Shortage:
    key = {"cpu": "cpus", "memory": "memory_gib", GPU: "gpus", "ephemeral-storage": "spill_gib"}
    lower = " or ".join(f"{settings}.{key[name]}" for name in short if name in key) or settings
    wanted = " and ".join(show_amount(name, needs.get(name, 0.0)) for name in short)
    if nodes is None:
        return Shortage(
            f"it needs {wanted}, and no node has that free (nodes may not be read, so no numbers)",
            f"lower {lower}, wait until other pods end, or add a node",
            lasting=False,
        )
    has, lasting = [], False
    for name in short:
        largest = max((node.allocatable.get(name, 0.0) for node in nodes if node.usable), default=0.0)
        total = sum(node.allocatable.get(name, 0.0) for node in nodes if node.usable)
        free = max((node.free.get(name, 0.0) for node in nodes if node.usable), default=0.0)
        lasting = lasting or largest < needs.get(name, 0.0)
        if total == 0.0:
            has.append(f"no {name} at all")
        elif counted:
            has.append(f"{show_amount(name, largest)} on its largest node, at most {show_amount(name, free)} of it free on any")
        else:
            has.append(f"{show_amount(name, largest)} on its largest node")
    step = (
        f"lower {lower} to what a node has, or add a node that is large enough"
        if lasting
        else f"wait until other pods end, lower {lower}, or add a node"
    )
    return Shortage(f"it needs {wanted}, and the cluster has {'; '.join(has)}", step, lasting)


def _is_usable(node: Json) -> bool:
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in node.get("status", {}).get("conditions") or ())
    return ready and not node.get("spec", {}).get("unschedulable")


def _requests(container: Json) -> Amounts:
    resources = container.get("resources") or {}
    # a limit without a request is its request; the API server fills that in, plain manifests do not
    texts = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: parse_quantity(value) for name, value in texts.items()}


def _add(total: Amounts, more: Amounts) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0.0) + value


def _sum(one: Amounts, other: Amounts) -> Amounts:
    total = dict(one)
    _add(total, other)
    return total


def _raise_to(total: Amounts, floor: Amounts) -> None:
    for name, value in floor.items():
        total[name] = max(total.get(name, 0.0), value)
