"""Units on Ray Data: one row a unit, mapped over a pool of actors that each build the worker once.

Ray Data schedules, restarts and autoscales; the bytes go from the actor straight to the store. Rows carry only unit names
and outcomes, so the driver's memory does not grow with the data. ``ray.data.checkpoint`` (resume by an id column) was
weighed and left: it resumes rows into new files, and here an interrupted run must end with the same files byte for byte.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
import ray.data
import ray.exceptions

from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.execution.units import OnDone, UnitFailure, WorkerSpec, attempt

# Actors that hold every CPU starve Ray's own tasks; the fraction is left to them.
_CPU_LEFT_FREE = 0.1


class ClusterError(ValueError):
    """A Ray cluster that cannot be joined; the message says what to check."""


def connect() -> None:
    """Join the cluster of ``RAY_ADDRESS`` (set inside ``ray job submit`` and RayJobs), else start a local Ray of our own."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options["include_dashboard"] = False
    try:
        _init(address, options)
    except Exception as error:  # a raylet that does not come up is a bare Exception in Ray
        raise ClusterError(
            f"cannot start or join Ray ({address}): {str(error).strip().splitlines()[0]}; check RAY_ADDRESS (unset, a local Ray "
            "is started) and, for a cluster with token authentication, RAY_AUTH_MODE=token and its token"
        ) from error


def _init(address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **options)
    except Exception:
        if address != "local":
            raise
        ray.shutdown()  # on a busy machine the raylet misses Ray's fixed 30 s once in a while
        ray.init(address=address, **options)


def run_on_ray(spec: WorkerSpec, units: Sequence[str], cluster: ClusterSettings, on_done: OnDone) -> None:
    """Process the units on a pool of actors; a unit whose actor dies is tried again elsewhere, then reported."""
    connect()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # The named parameters that are to replace it cannot cap restarts in this Ray.
    warnings.filterwarnings("ignore", message=".*ray_remote_args_fn.*")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a lost unit is reported by name below, it does not take the others along
    context.print_on_execution_start = False
    rows = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
    outcomes = rows.map(
        _Actor,  # type: ignore[arg-type] # a class is what an actor pool takes
        fn_constructor_kwargs={"spec": spec},
        compute=ray.data.ActorPoolStrategy(size=_pool_size(spec, cluster, len(units)), max_tasks_in_flight_per_actor=1),
        num_cpus=max(spec.threads - _CPU_LEFT_FREE, _CPU_LEFT_FREE),
        num_gpus=cluster.gpus_per_worker or None,
        memory=cluster.memory_per_worker_gib * 2**30 if cluster.memory_per_worker_gib else None,
        # Ray Data would restart an actor and retry its task for ever: a shard that kills its actor would hang the job.
        ray_remote_args_fn=partial(dict, max_restarts=cluster.max_worker_restarts, max_task_retries=cluster.max_worker_restarts),
    )
    unseen = dict.fromkeys(units)
    reason = "its actor died again and again (out of memory, or killed); see the Ray logs, or lower batch_tokens"
    try:
        for row in outcomes.iter_rows():
            unseen.pop(row["unit"], None)
            on_done(row["unit"], UnitFailure(row["unit"], row["reason"], row["details"]) if row["reason"] else None)
    except ray.exceptions.RayError as error:
        reason = f"Ray gave up: {str(error).strip().splitlines()[-1]}"
    for unit in unseen:
        on_done(unit, UnitFailure(unit, reason, ""))


class _Actor:
    """What runs in the pool: the worker, and outcomes as rows."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._worker = spec.make()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        failure = attempt(self._worker, row["unit"])
        return {
            "unit": row["unit"],
            "reason": failure.reason if failure else "",
            "details": failure.details if failure else "",
        }


def _pool_size(spec: WorkerSpec, cluster: ClusterSettings, num_units: int) -> int:
    """The number of actors asked for, else as many as the cluster's CPUs (or GPUs) hold, and never more than units."""
    if cluster.num_workers is not None:
        return min(cluster.num_workers, num_units)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if cluster.gpus_per_worker:
        fitting = int(resources.get("GPU", 0) / cluster.gpus_per_worker)
    else:
        fitting = int(resources.get("CPU", 1) / spec.threads)
    return max(1, min(fitting, num_units))
