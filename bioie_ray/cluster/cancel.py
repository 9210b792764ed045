"""Cancelling a RayJob: it and everything it owns, and not done before the last pod is gone."""

from __future__ import annotations

import time
from collections.abc import Callable

from bioie_ray.cluster.api import RAY, Cluster, ClusterError
from bioie_ray.cluster.snapshot import job_pods, result_of
from bioie_ray.cluster.terminal import note

_POLL_S = 1.0
_HEARTBEAT_S = 10.0


def cancel_job(cluster: Cluster, namespace: str, name: str, *, timeout_s: float = 120.0, say: Callable[[str], None] = note) -> None:
    """Delete a RayJob and wait until no pod of it is left.

    Raises:
        ClusterError: there is no such job, or pods are left after `timeout_s`; the message names them.
    """
    path = f"{RAY}/namespaces/{namespace}/rayjobs/{name}"
    job = cluster.find(path)
    if job is None:
        raise ClusterError(f"no RayJob {name} in namespace {namespace}; bioie status lists those there are (--namespace picks another)")
    owned = f"ray.io/originated-from-crd=RayJob,ray.io/originated-from-cr-name={name}"
    clusters = {c["metadata"]["name"]: c for c in cluster.items(f"{RAY}/namespaces/{namespace}/rayclusters", labels=owned)}
    cluster.delete(path)
    say(f"deleting {name} and its pods{'' if result_of(job.get('status') or {}) is None else ' (it had finished)'}")
    started = last_output = time.monotonic()
    while True:
        # a cluster of another attempt may appear between the look above and the deletion
        clusters |= {c["metadata"]["name"]: c for c in cluster.items(f"{RAY}/namespaces/{namespace}/rayclusters", labels=owned)}
        pods = job_pods(cluster, namespace, name, tuple(clusters.values()))
        left = cluster.find(path)
        now = time.monotonic()
        if left is None and not pods:
            say(f"{name} is cancelled, and no pod of it is left ({now - started:.0f} s)")
            return
        if now - started >= timeout_s:
            raise ClusterError(_left_over(namespace, name, [p["metadata"]["name"] for p in pods], timeout_s, job_is_there=left is not None))
        if now - last_output >= _HEARTBEAT_S:
            left_over = (
                f"{len(pods)} {'pod is' if len(pods) == 1 else 'pods are'} left"
                if pods
                else "no pod is left; the KubeRay operator has to let the RayJob go"
            )
            say(f"{now - started:5.0f} s  {left_over}")
            last_output = now
        time.sleep(_POLL_S)


def _left_over(namespace: str, name: str, pods: list[str], timeout_s: float, *, job_is_there: bool) -> str:
    if pods:
        return (
            f"{name} is being deleted, but after {timeout_s:.0f} s these pods are left: {', '.join(pods)}; is their node down? "
            f"kubectl -n {namespace} get pods -o wide; to give them up: kubectl -n {namespace} delete pod NAME --force"
        )
    if job_is_there:
        return (
            f"{name} has no pods any more, but stays until the KubeRay operator lets it go, and that has taken more than {timeout_s:.0f} s; does the operator "
            f'run (bioie doctor)? Without one: kubectl -n {namespace} patch rayjob {name} --type=merge -p \'{{"metadata":{{"finalizers":null}}}}\''
        )
    raise AssertionError(name)
