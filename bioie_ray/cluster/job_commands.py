"""`bioie status`, `bioie logs` and `bioie cancel`, of RayJobs and of jobs on a standing cluster."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.cluster.api import connect
from bioie_ray.cluster.cancel import cancel_job
from bioie_ray.cluster.explain import telling_line
from bioie_ray.cluster.logs import show_logs
from bioie_ray.cluster.ray_api import RayServer, asked, known_job, ray_server
from bioie_ray.cluster.ray_jobs import follow_ray_job, stop_ray_job
from bioie_ray.cluster.status import show_duration, show_status
from bioie_ray.cluster.submit_command import check_target

_FOLLOW_LIMIT_S = 30 * 86_400.0


def status(name: str | None, *, to: str, namespace: str, as_json: bool, context: str | None, address: str | None) -> None:
    """Print where one job stands, or list all.

    Raises:
        ClusterError: no such job, or nothing that answers.
    """
    check_target(to)
    if to == "ray" or address is not None:
        with ray_server(address, namespace, context) as server:
            _ray_status(server, name, as_json=as_json)
        return
    show_status(connect(context), namespace, name, as_json=as_json)


def logs(
    name: str,
    *,
    to: str,
    namespace: str,
    follow: bool,
    workers: bool,
    tail: int | None,
    store: str | None,
    endpoint: str | None,
    context: str | None,
    address: str | None,
) -> int:
    """Print a job's logs; returns the exit code.

    Raises:
        ClusterError: no such job, or no log of it.
    """
    check_target(to)
    if to == "ray" or address is not None:
        with ray_server(address, namespace, context) as server:
            known_job(server, name)
            if follow:
                return follow_ray_job(server, name, timeout_s=_FOLLOW_LIMIT_S)
            text: str = asked(server.jobs.get_job_logs, name)
            for line in text.splitlines() if tail is None else text.splitlines()[-tail:]:
                print(line)
        return 0
    place = None if store is None else StoreAddress(store, endpoint)
    show_logs(connect(context), namespace, name, follow=follow, workers=workers, tail=tail, store=place)
    return 0


def cancel(name: str, *, to: str, namespace: str, timeout_s: float, context: str | None, address: str | None) -> None:
    """End a job and what it holds.

    Raises:
        ClusterError: no such job, or something of it is left after the time-out.
    """
    check_target(to)
    if to == "ray" or address is not None:
        with ray_server(address, namespace, context) as server:
            stop_ray_job(server, name, timeout_s=timeout_s)
        return
    cancel_job(connect(context), namespace, name, timeout_s=timeout_s)


def _ray_status(server: RayServer, name: str | None, *, as_json: bool) -> None:
    if name is not None:
        rows = [_ray_facts(known_job(server, name))]
    else:
        rows = sorted(
            (_ray_facts(job) for job in asked(server.jobs.list_jobs) if job.submission_id),
            key=lambda row: row["started"] or "",
            reverse=True,
        )
    if as_json:
        print(json.dumps(rows if name is None else rows[0], indent=2, ensure_ascii=False))
        return
    for row in rows:
        print(f"{row['name']}  {row['status']}  {show_duration(row['took_s'])}  {row['message']}".rstrip())
    if not rows:
        print(f"no jobs on {server.where}")


def _ray_facts(job: Any) -> dict[str, Any]:
    ended_ms = job.end_time or (datetime.now(UTC).timestamp() * 1000 if job.start_time else None)
    return {
        "name": job.submission_id,
        "status": str(job.status),
        "message": telling_line(str(job.message or "")),
        "entrypoint": job.entrypoint,
        "started": None if not job.start_time else datetime.fromtimestamp(job.start_time / 1000, UTC).isoformat(timespec="seconds"),
        "took_s": None if ended_ms is None else round((ended_ms - job.start_time) / 1000),
    }
