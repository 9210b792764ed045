"""`bioie logs`: from the pods while they are there, from the store afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable

from bioie_ray.artifacts.store import StoreAddress, StoreError, open_store
from bioie_ray.cluster.api import RAY, Cluster, ClusterError
from bioie_ray.cluster.job_logs import JobLogs
from bioie_ray.cluster.site_store import store_of_job, within
from bioie_ray.cluster.snapshot import job_pods, result_of
from bioie_ray.cluster.terminal import note, show_line

_HEARTBEAT_S = 30.0
_STORE_TIMEOUT_S = 30.0


def driver_log_key(name: str) -> str:
    """Where the driver puts its log in the store."""
    return f"_logs/{name}/driver.log"


def show_logs(
    cluster: Cluster,
    namespace: str,
    name: str,
    *,
    follow: bool,
    workers: bool,
    tail: int | None,
    store: StoreAddress | None = None,
    say: Callable[[str], None] = note,
) -> None:
    """Print the driver's log of a job (and its Ray pods' with `workers`); with `follow` until the job is over.

    Raises:
        ClusterError: no such job, no right to its logs, or no log any more.
    """
    job = cluster.find(f"{RAY}/namespaces/{namespace}/rayjobs/{name}")
    over = job is None or result_of(job.get("status") or {}) is not None
    owned = f"ray.io/originated-from-crd=RayJob,ray.io/originated-from-cr-name={name}"
    clusters = tuple(cluster.items(f"{RAY}/namespaces/{namespace}/rayclusters", labels=owned)) if job else ()
    pods = job_pods(cluster, namespace, name, clusters)
    has_driver = any("batch.kubernetes.io/job-name" in (pod["metadata"].get("labels") or {}) for pod in pods)
    if not has_driver and (over or not follow):
        if over:
            if store is None and job is not None:
                store = store_of_job(job, cluster)
            _from_store(store, namespace, name, tail, is_there=job is not None)
            if not (workers and pods):
                return
        elif not (workers and pods):
            raise ClusterError(f"{name} has no log yet: its driver has not started; bioie status {name} says why, --follow waits for it")
    logs = JobLogs(cluster, namespace, name, follow=follow, driver=has_driver or follow, pods=workers, tail=tail)
    logs.start()
    last_output = time.monotonic()
    try:
        while not logs.is_done:
            line = logs.next(0.5)
            if line is not None:
                show_line(line, with_source=workers)
                last_output = time.monotonic()
            elif time.monotonic() - last_output >= _HEARTBEAT_S:
                say(f"no new line for {_HEARTBEAT_S:.0f} s; bioie status {name} says where the job stands")
                last_output = time.monotonic()
        logs.check()
    finally:
        logs.stop()


def _from_store(store: StoreAddress | None, namespace: str, name: str, tail: int | None, *, is_there: bool) -> None:
    if store is None:
        gone = "its pods are gone" if is_there else f"there is no RayJob {name} in namespace {namespace}"
        raise ClusterError(
            f"{gone}; its driver's log is in the store, as {driver_log_key(name)}: name the store by --store (and --endpoint)"
        )
    try:
        where = open_store(store)
        text = within(_STORE_TIMEOUT_S, lambda: where.read(driver_log_key(name)), store.url).decode(errors="replace")
    except FileNotFoundError as error:
        raise ClusterError(f"no log of {name}: its pods are gone, and there is no {error}") from None
    except StoreError as error:
        raise ClusterError(f"the pods of {name} are gone, and its log in the store cannot be read from here: {error}") from None
    lines = text.splitlines()
    for line in lines if tail is None else lines[-tail:]:
        print(line)
