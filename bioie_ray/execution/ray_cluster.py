"""The Ray cluster a run works on: joining it, what it has, and how many actors to ask it for."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

import ray

from bioie_ray.artifacts.reasons import first_line
from bioie_ray.config.cluster import ClusterSettings, actor_cpus
from bioie_ray.execution.units import WorkerSpec
from bioie_ray.execution.usage import LOCAL, Node

_GROUP_LABEL = "ray.io/node-group"
_HEAD_RESOURCE = "node:__internal_head__"


class ClusterError(ValueError):
    """A Ray cluster that cannot be joined or has no place for the work; the message says what to check."""


def address() -> str:
    """Where Ray is: ``RAY_ADDRESS`` (set inside ``ray job submit`` and RayJobs), else ``local`` for one of our own."""
    return os.environ.get("RAY_ADDRESS") or LOCAL


def connect() -> None:
    """Join the cluster of ``RAY_ADDRESS``, else start a local Ray of our own."""
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address() == LOCAL:
        options["include_dashboard"] = False
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _init(options)
    except Exception as error:  # a raylet that does not come up is a bare Exception in Ray
        raise ClusterError(
            f"cannot start or join Ray ({address()}): {first_line(error)}; check RAY_ADDRESS (unset, a local Ray "
            "is started) and, for a cluster with token authentication, RAY_AUTH_MODE=token and its token"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own, which ends without a word


def _init(options: dict[str, Any]) -> None:
    for tries_left in (2, 1, 0):
        try:
            ray.init(address=address(), **options)
        except Exception:
            if address() != LOCAL or not tries_left:
                raise
            ray.shutdown()  # on a busy machine the raylet misses Ray's fixed 30 s once in a while
        else:
            return


def nodes() -> list[Node]:
    """The nodes that are up. Their group is KubeRay's worker group, ``head``, or ``local`` for a Ray of our own."""
    return [_node(found) for found in ray.nodes() if found["Alive"]]  # type: ignore[no-untyped-call]


def _node(found: dict[str, Any]) -> Node:
    resources = found["Resources"]
    if address() == LOCAL:
        group = LOCAL
    elif _HEAD_RESOURCE in resources:
        group = "head"
    else:
        group = found.get("Labels", {}).get(_GROUP_LABEL) or "workers"
    return Node(found["NodeID"], group, resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def actor_resources(spec: WorkerSpec, cluster: ClusterSettings) -> dict[str, Any]:
    """What one actor asks Ray for."""
    return {
        "num_cpus": actor_cpus(spec.threads),
        "num_gpus": _gpus(spec, cluster) or None,
        "memory": cluster.memory_per_worker_gib * 2**30 if cluster.memory_per_worker_gib else None,
    }


def _gpus(spec: WorkerSpec, cluster: ClusterSettings) -> float:
    return cluster.gpus_per_worker if spec.uses_gpu else 0.0


def pool_size(spec: WorkerSpec, cluster: ClusterSettings, num_units: int) -> int:
    """How many actors to ask for at once: those that find no place wait, and Ray's autoscaler makes room if it can.

    ``cluster.num_workers`` if that is given, else as many as the nodes hold that are up. Where the head has no CPUs for work the
    other nodes come and go, so there it is as many as the recipe's own groups of pods (``cluster.kube.workers``) hold, if that
    is more. Never more than units, and of those that run no model never more than its groups without GPUs hold: pods with GPUs would be
    started for the rest.

    Raises:
        ClusterError: GPUs are asked for on a local Ray that has none; it would wait for ever.
    """
    if address() == LOCAL and _gpus(spec, cluster) > ray.cluster_resources().get("GPU", 0):  # type: ignore[no-untyped-call]
        raise ClusterError(
            f"cluster.gpus_per_worker is {cluster.gpus_per_worker:g}, but this machine has "
            f"{ray.cluster_resources().get('GPU', 0):g} GPUs that Ray sees; set it to 0, or run on a cluster (RAY_ADDRESS)"  # type: ignore[no-untyped-call]
        )
    most = num_units
    if cluster.gpus_per_worker and not spec.uses_gpu and len({bool(group.gpus) for group in cluster.kube.workers.values()}) == 2:
        most = min(most, _fitting_the_recipe(spec, cluster))
    if cluster.num_workers is not None:
        return max(1, min(cluster.num_workers, most))
    up = nodes()
    fitting = sum(_fitting(node.cpus, node.gpus, spec, cluster) for node in up)
    if any(node.group == "head" and not node.cpus for node in up):
        fitting = max(fitting, _fitting_the_recipe(spec, cluster))
    return max(1, min(fitting, most))


def _fitting(cpus: float, gpus: float, spec: WorkerSpec, cluster: ClusterSettings) -> int:
    if asked := _gpus(spec, cluster):
        return int(gpus / asked)
    return int(cpus / spec.threads)


def _fitting_the_recipe(spec: WorkerSpec, cluster: ClusterSettings) -> int:
    """What the recipe's groups hold at most; groups with GPUs are for work that asks for them, unless no other can hold it."""
    holds = {True: 0, False: 0}
    for group in cluster.kube.workers.values():
        cpus = group.ray_cpus or max(1, int(group.cpus))
        holds[group.gpus > 0] += _fitting(cpus, group.gpus, spec, cluster) * group.max_replicas
    return holds[True] if _gpus(spec, cluster) else holds[False] or holds[True]


def shortage(num_actors: int, spec: WorkerSpec, cluster: ClusterSettings) -> str:
    """What was asked for and what there is, for people."""
    gpus = f" and {_gpus(spec, cluster):g} GPUs" if _gpus(spec, cluster) else ""
    memory = f", with {cluster.memory_per_worker_gib:g} GiB each" if cluster.memory_per_worker_gib else ""
    there = ", ".join(f"{node.group}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes()) or "none"
    return f"asked for {num_actors} workers of {spec.threads} CPUs{gpus}{memory}; nodes that are up: {there}"
