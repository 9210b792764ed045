"""Where submitted jobs stand: one in detail, with what holds it up, or all of a namespace."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bioie_ray.cluster.api import RAY, Cluster, ClusterError
from bioie_ray.cluster.explain import explain
from bioie_ray.cluster.naming import COMMON_LABELS, LABEL_JOB, LABEL_RECIPE
from bioie_ray.cluster.pod_view import pod_state, role_of
from bioie_ray.cluster.snapshot import Snapshot, age_s, gather, parse_time
from bioie_ray.cluster.terminal import show_table

Json = Mapping[str, Any]


def show_status(cluster: Cluster, namespace: str, name: str | None, *, as_json: bool) -> None:
    """Print one job, or the list of ours.

    Raises:
        ClusterError: no such job.
    """
    if name is None:
        _show_list(list_jobs(cluster, namespace), namespace, as_json=as_json)
        return
    snapshot = gather(cluster, namespace, name)
    if snapshot.job is None:
        raise ClusterError(
            f"no RayJob {name} in namespace {namespace}; bioie status lists those there are, --namespace picks another, --to ray asks the standing cluster"
        )
    facts = job_facts(snapshot)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    _show_job(facts)


def job_facts(snapshot: Snapshot) -> dict[str, Any]:
    """What is known of a job, as plain JSON."""
    status, labels = snapshot.status, (snapshot.job or {})["metadata"].get("labels") or {}
    return {
        "name": snapshot.name,
        "namespace": snapshot.namespace,
        "recipe": labels.get(LABEL_RECIPE),
        "job": labels.get(LABEL_JOB),
        "phase": status.get("jobDeploymentStatus"),
        "result": snapshot.result,
        "job_status": status.get("jobStatus") or None,
        "failed_attempts": status.get("failed") or 0,
        "age_s": round(snapshot.age_s),
        "started": status.get("startTime"),
        "ended": status.get("endTime"),
        "ray_cluster": status.get("rayClusterName") or None,
        "pods": [
            {
                "name": pod["metadata"]["name"],
                "role": role_of(pod)[0].removeprefix("the ").removeprefix("a "),
                "state": pod_state(pod),
                "node": pod.get("spec", {}).get("nodeName"),
                "image": (pod.get("spec", {}).get("containers") or [{}])[0].get("image"),
                "age_s": round(age_s(pod, snapshot.now)),
            }
            for pod in snapshot.pods
        ],
        "findings": [
            {"sentence": f.sentence, "next_step": f.next_step, "lasting": f.lasting or f.final} for f in explain(snapshot)
        ],
        "unreadable": list(snapshot.unreadable),
    }  # fmt: skip


def list_jobs(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Our RayJobs of a namespace, the newest first."""
    selector = ",".join(f"{key}={value}" for key, value in COMMON_LABELS.items())
    jobs = cluster.items(f"{RAY}/namespaces/{namespace}/rayjobs", labels=selector)
    jobs.sort(key=lambda job: str(job["metadata"].get("creationTimestamp")), reverse=True)
    now = cluster.now()
    rows = []
    for job in jobs:
        status, labels = job.get("status") or {}, job["metadata"].get("labels") or {}
        rows.append(
            {
                "name": job["metadata"]["name"],
                "recipe": labels.get(LABEL_RECIPE),
                "job": labels.get(LABEL_JOB),
                "phase": status.get("jobDeploymentStatus"),
                "job_status": status.get("jobStatus") or None,
                "failed_attempts": status.get("failed") or 0,
                "age_s": round(age_s(job, now)),
                "wall_s": _wall_s(status),
            }
        )
    return rows


def _show_list(rows: list[dict[str, Any]], namespace: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        print(f"no jobs of ours in namespace {namespace}")
        return
    show_table(
        ("name", "job", "phase", "result", "age", "took"),
        [
            (
                row["name"],
                row["job"] or "",
                row["phase"] or "new",
                row["job_status"] or "",
                show_duration(row["age_s"]),
                show_duration(row["wall_s"]),
            )
            for row in rows
        ],
    )


def _show_job(facts: Mapping[str, Any]) -> None:
    ended = f", {facts['result']}" if facts["result"] else (f", job {facts['job_status']}" if facts["job_status"] else "")
    attempts = f", {facts['failed_attempts']} failed attempts" if facts["failed_attempts"] else ""
    print(f"{facts['name']} in {facts['namespace']}: {facts['phase'] or 'not looked at yet'}{ended}{attempts}")
    print(f"recipe {facts['recipe']}, job {facts['job']}, created {show_duration(facts['age_s'])} ago")
    if facts["pods"]:
        show_table(
            ("pod", "role", "state", "node", "age"),
            [(pod["name"], pod["role"], pod["state"], pod["node"] or "", show_duration(pod["age_s"])) for pod in facts["pods"]],
        )
    for finding in facts["findings"]:
        print(f"! {finding['sentence']}. Next: {finding['next_step']}")
    if facts["unreadable"]:
        print(f"(you may not read {', '.join(facts['unreadable'])}, so causes that only they show are missing)")


def show_duration(seconds: float | None) -> str:
    """Seconds as kubectl writes an age: ``41s``, ``12m``, ``3h``, ``2d``."""
    if seconds is None:
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (120, "m")):
        if seconds >= size * (1 if unit == "m" else 2):
            return f"{seconds / (60 if unit == 'm' else size):.0f}{unit}"
    return f"{seconds:.0f}s"


def _wall_s(status: Json) -> float | None:
    started, ended = parse_time(status.get("startTime")), parse_time(status.get("endTime"))
    return None if started is None or ended is None else (ended - started).total_seconds()
