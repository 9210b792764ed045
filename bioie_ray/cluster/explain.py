"""Why a job does not run (yet): Kubernetes objects in, sentences with a next step out. Pure.

Every rule names one cause. `lasting` causes do not come right by themselves (a misspelt image, a missing Secret): a follower gives
up on them after some patience. Others (a full cluster, a queue) are waited for. `final` ones are over: nothing to wait for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bioie_ray.cluster.snapshot import Snapshot, age_s, event_time

Json = Mapping[str, Any]

# The operator writes a first status within a second; ten leave room for a busy one.
_OPERATOR_GRACE_S = 10.0
_MAX_CHARS = 400
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause in one sentence, and what to do about it. Findings with the same key are the same cause."""

    key: str
    sentence: str
    next_step: str
    lasting: bool = False
    final: bool = False

    def __str__(self) -> str:
        return f"{self.sentence}. Next: {self.next_step}"


def explain(snapshot: Snapshot) -> list[Finding]:
    """The causes that hold this job up, the most fundamental first; empty where all is well."""
    from bioie_ray.cluster.explain_pods import explain_pods

    if snapshot.job is None:
        return []
    if snapshot.result is not None:
        return list(_failure(snapshot))
    found = [*_operator(snapshot), *_queue(snapshot), *_refused_creations(snapshot), *explain_pods(snapshot)]
    found = [finding for finding in found if finding.final] or found
    return list({finding.key: finding for finding in reversed(found)}.values())[::-1]


def _failure(snapshot: Snapshot) -> Iterator[Finding]:
    status, name = snapshot.status, snapshot.name
    reason, message = status.get("reason") or "", (status.get("message") or "").strip()
    logs = f"bioie logs {name} shows the driver's last lines"
    if snapshot.result == "SUCCEEDED":
        return
    if status.get("jobDeploymentStatus") == "ValidationFailed":
        yield _invalid(message)
    elif reason == "DeadlineExceeded":
        limit = (snapshot.job or {}).get("spec", {}).get("activeDeadlineSeconds")
        yield Finding(
            "deadline",
            f"the job was ended after its deadline of {limit} s",
            "raise cluster.kube.deadline_s and submit it with --again: finished shards are kept",
            final=True,
        )
    elif reason == "SubmissionFailed":
        yield Finding("submission", f"the job could not be handed to its Ray cluster: {telling_line(message)}", logs, final=True)
    elif snapshot.result == "STOPPED":
        yield Finding("stopped", "the job was stopped", "submit it with --again: finished shards are kept", final=True)
    else:
        yield Finding(
            "failed",
            f"the job failed{f' ({reason})' if reason else ''}: {telling_line(message) or 'no reason given'}",
            f"{logs}; submit it with --again",
            final=True,
        )


def _invalid(message: str) -> Finding:
    sentence = f"the KubeRay operator refuses the job: {' '.join(message.split())}"
    return Finding("validation", sentence, "render it again with this version, or mend the manifest", final=True)


def _operator(snapshot: Snapshot) -> Iterator[Finding]:
    operators, seen = snapshot.operators, bool(snapshot.status.get("jobDeploymentStatus"))
    ready = sum((operator.get("status") or {}).get("readyReplicas") or 0 for operator in operators or ())
    if operators and ready == 0:
        operator = operators[0]["metadata"]
        where = f"{operator['name']} in namespace {operator['namespace']}"
        if not (operators[0].get("spec") or {}).get("replicas", 1):
            step = f"kubectl -n {operator['namespace']} scale deployment {operator['name']} --replicas=1"
            yield Finding("operator", f"the KubeRay operator ({where}) is scaled to 0, so nothing happens to this job", step, lasting=True)
        elif snapshot.age_s >= _OPERATOR_GRACE_S:
            step = f"see why: kubectl -n {operator['namespace']} describe deployment {operator['name']}"
            yield Finding("operator", f"the KubeRay operator ({where}) is not ready, so nothing happens to this job", step, lasting=True)
    elif not seen and snapshot.age_s >= _OPERATOR_GRACE_S:
        if operators:
            where = operators[0]["metadata"]["namespace"]
            sentence = f"the KubeRay operator runs, but has not looked at this job for {snapshot.age_s:.0f} s"
            step = f"see whether it watches the namespace {snapshot.namespace}: kubectl -n {where} logs deployment/{operators[0]['metadata']['name']}"
        elif operators is None:
            sentence = f"nothing has looked at this job for {snapshot.age_s:.0f} s, and you may not see whether the KubeRay operator runs"
            step = "ask whoever runs the cluster: kubectl get deployments -A -l app.kubernetes.io/component=kuberay-operator"
        else:
            sentence = f"nothing has looked at this job for {snapshot.age_s:.0f} s: the cluster has no KubeRay operator"
            step = "install KubeRay 1.6 (k8s/README.md); its CRDs alone do nothing"
        yield Finding("operator", sentence, step, lasting=True)


def _queue(snapshot: Snapshot) -> Iterator[Finding]:
    assert snapshot.job is not None
    queue = (snapshot.job["metadata"].get("labels") or {}).get(_QUEUE_LABEL)
    if queue is None or not snapshot.job.get("spec", {}).get("suspend"):
        return
    if snapshot.workloads is None:
        yield Finding(
            "kueue",
            f"the job waits for the Kueue queue {queue}, but the cluster has no Kueue",
            "install Kueue, or set cluster.kube.profile=elastic",
            lasting=True,
        )
        return
    uid = snapshot.job["metadata"].get("uid")
    mine = next((w for w in snapshot.workloads if any(o.get("uid") == uid for o in w["metadata"].get("ownerReferences") or ())), None)
    if mine is None:
        if snapshot.age_s >= _OPERATOR_GRACE_S:
            yield Finding(
                "kueue",
                f"the job waits for the queue {queue}, but Kueue has made no workload for it",
                "see whether Kueue manages RayJobs: kubectl -n kueue-system logs deployment/kueue-controller-manager",
                lasting=True,
            )
        return
    condition = _condition(mine, "QuotaReserved") or _condition(mine, "Admitted") or {}
    if condition.get("status") == "True":
        return
    message = str(condition.get("message") or "not looked at yet").rstrip(".")
    if re.search(r"LocalQueue \S+ doesn't exist|ClusterQueue \S+ (doesn't exist|is inactive)|inactive", message):
        step = f"see the queues of the namespace: kubectl -n {snapshot.namespace} get localqueues; set cluster.kube.queue to one of them"
        yield Finding("kueue", f"Kueue cannot queue the job: {message}", step, lasting=True)
        return
    position, total = queue_position(mine, snapshot.workloads)
    lasting = bool(re.search(r"maximum capacity|exceeds? (the )?(maximum|nominal)", message))
    step = (
        "ask for less than the queue's quota (cluster.kube.workers)"
        if lasting
        else "it starts by itself when jobs before it end; bioie cancel gives its place up"
    )
    yield Finding(f"kueue/{position}", f"the job is number {position} of {total} waiting in the queue {queue}: {message}", step, lasting)


def queue_position(mine: Json, workloads: Iterable[Json]) -> tuple[int, int]:
    """Place of a workload among those of its queue that wait, and how many wait: by priority, then by age, as Kueue orders them."""
    queue = (mine.get("spec") or {}).get("queueName")
    waiting = [
        w
        for w in workloads
        if (w.get("spec") or {}).get("queueName") == queue
        and (_condition(w, "QuotaReserved") or {}).get("status") != "True"
        and (_condition(w, "Finished") or {}).get("status") != "True"
    ]
    waiting.sort(
        key=lambda w: (-((w.get("spec") or {}).get("priority") or 0), w["metadata"].get("creationTimestamp") or "", w["metadata"]["name"])
    )
    names = [w["metadata"]["name"] for w in waiting]
    return (names.index(mine["metadata"]["name"]) + 1 if mine["metadata"]["name"] in names else 1), max(len(names), 1)


def _refused_creations(snapshot: Snapshot) -> Iterator[Finding]:
    """Pods and clusters that the API server did not let the controllers create: quota, Pod Security, missing accounts."""
    for cluster in snapshot.clusters:
        failure = _condition(cluster, "ReplicaFailure")
        if failure and failure.get("status") == "True" and "Create" in str(failure.get("reason")):
            what = "the head pod" if "Head" in str(failure.get("reason")) else "a worker pod"
            yield explain_refusal(str(failure.get("message")), what)
    have_head = any(pod["metadata"].get("labels", {}).get("ray.io/node-type") == "head" for pod in snapshot.pods)
    have_submitter = any("batch.kubernetes.io/job-name" in pod["metadata"].get("labels", {}) for pod in snapshot.pods)
    ours = {("RayJob", snapshot.name)} if not snapshot.clusters else set()
    if not have_head:
        ours |= {("RayCluster", cluster["metadata"]["name"]) for cluster in snapshot.clusters}
    if not have_submitter:
        ours.add(("Job", snapshot.name))
    for event in _latest_warnings(snapshot, ours):
        if str(event.get("reason")).startswith("InvalidRayJob"):  # the status says so a moment later
            yield _invalid(str(event.get("message")).removeprefix(f"{snapshot.namespace}/{snapshot.name}: "))
            continue
        what = {"RayJob": "the Ray cluster", "RayCluster": "the head pod", "Job": "the submitter pod"}[event["involvedObject"]["kind"]]
        yield explain_refusal(str(event.get("message")), what)


def explain_refusal(message: str, what: str) -> Finding:
    """Why the API server refused to create `what`, from the message it gave a controller (or us)."""
    text = " ".join(message.split())
    quota = re.search(r"exceeded quota: (\S+?), requested: (\S+?), used: (\S+?), limited: (\S+)", text)
    if quota:
        return _quota(quota, what)
    for pattern, sentence, step in _REFUSALS:
        match = re.search(pattern, text)
        if match:
            return Finding(
                f"refused/{what}/{pattern[:20]}",
                f"{what} is not created: {sentence.format(*match.groups())}",
                step.format(*match.groups()),
                lasting=True,
            )
    reason = re.sub(r"^.*?(pods? \"|Error creating: |is forbidden: )", "", text) if "forbidden" in text else text
    own = what == "the RayJob"
    step = (
        "compare with the KubeRay of the cluster (bioie doctor): manifests are made for 1.6"
        if own
        else "mend that; the controllers try again by themselves"
    )
    short = reason if len(reason) <= _MAX_CHARS else f"{reason[:_MAX_CHARS]}..."
    return Finding(f"refused/{what}", f"{what} is not created: {short}", step, lasting=own or "forbidden" in text)


_REFUSALS = (
    (r"failed quota: (\S+): (must specify .*?)(?: for:|$)", "the quota {0} of the namespace asks for more: {1}", "have the quota changed, or set those in the pod template"),
    (r"violates PodSecurity \"([^\"]+)\": (.*)", "the namespace's Pod Security level {0} forbids it: {1}",
     "use manifests of `bioie render` (they pass `restricted`), and see what a webhook may add to pods"),
    (r"serviceaccount \"?([\w.-]+)\"? not found", "its service account {0} is missing", "put the base into the namespace: kubectl apply -k k8s/base (or an overlay)"),
    (r"[Ss]ervice ?[Aa]ccount (?:\S+/)?([\w.-]+) (?:is )?not found", "its service account {0} is missing", "put the base into the namespace: kubectl apply -k k8s/base"),
    (r"no PriorityClass with name (\S+) was found", "there is no PriorityClass {0}", "kubectl get priorityclasses; set cluster.kube.priority_class to one of them, or leave it out"),
    (r"admission webhook \"([^\"]+)\" denied the request: (.*)", "the admission webhook {0} refuses it: {1}", "do what it asks for, or talk to whoever runs the cluster"),
    (r"because it is being terminated", "the namespace is being deleted", "wait until it is gone, make it again and submit again"),
    (r"((?:maximum|minimum) \S+ usage per \w+ is \S+, but \S+ is [^\s,]+)", "a LimitRange of the namespace forbids its size: {0}", "change cluster.kube.head or cluster.kube.workers to fit"),
    (r"User \"(system:serviceaccount:\S+?)\" cannot (\w+) resource \"(\S+?)\"", "{0} may not {1} {2}", "give the operator its rights back (its Helm chart or kustomization has them)"),
)  # fmt: skip


def _quota(match: re.Match[str], what: str) -> Finding:
    from bioie_ray.cluster.capacity import parse_quantity, show_amount

    name = match[1]
    asked, used, limited = (dict(part.split("=", 1) for part in text.rstrip(".,").split(",")) for text in match.groups()[1:])
    lasting = any(parse_quantity(asked[k]) > parse_quantity(limited[k]) for k in asked if k in limited)
    parts = [
        f"{show_amount(k, parse_quantity(v))} more with {parse_quantity(used.get(k, 0)) / _unit(k):.3g} of {parse_quantity(limited.get(k, 0)) / _unit(k):.3g} in use"
        for k, v in asked.items()
    ]
    step = "ask for less, or have the quota raised" if lasting else "wait until other jobs end, ask for less, or have the quota raised"
    return Finding(
        f"quota/{what}/{name}",
        f"{what} is not created: the namespace's quota {name} is exceeded: it asks for {' and '.join(parts)}",
        f"{step}: kubectl describe resourcequota {name}",
        lasting,
    )


def _unit(resource: str) -> float:
    return 2.0**30 if resource.endswith(("memory", "storage")) else 1.0


# Reasons of events that say why something is not there; others (a failed deletion, say) come right by themselves.
_NOT_MADE = re.compile(r"FailedToCreate|FailedCreate|Invalid|\w*NotFound$")


def _latest_warnings(snapshot: Snapshot, objects: set[tuple[str, str]]) -> list[Json]:
    """The newest warning of each of these objects."""
    latest: dict[tuple[str, str], Json] = {}
    for event in snapshot.events:
        involved = event.get("involvedObject") or {}
        key = (str(involved.get("kind")), str(involved.get("name")))
        telling = event.get("type") == "Warning" and _NOT_MADE.match(str(event.get("reason")))
        if key in objects and telling and _is_of_this_job(event, snapshot):
            old = latest.get(key)
            if old is None or (event_time(event) or snapshot.now) >= (event_time(old) or snapshot.now):
                latest[key] = event
    return list(latest.values())


def _is_of_this_job(event: Json, snapshot: Snapshot) -> bool:
    """Not of an earlier job of the same name."""
    seen = event_time(event)
    return seen is None or (snapshot.now - seen).total_seconds() <= age_s(snapshot.job or {}, snapshot.now) + 1.0


def _condition(thing: Json, kind: str) -> Json | None:
    return next((c for c in (thing.get("status") or {}).get("conditions") or () if c.get("type") == kind), None)


def telling_line(message: str) -> str:
    """The telling line of a job's message: Ray appends the last 20,000 characters of the driver's log."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    telling = [n for n, line in enumerate(lines[1:], 1) if re.match(r"^(error: |\w*(Error|Exception)\b)", line)]
    if not telling:
        return lines[0][:300].rstrip(":")
    last = " ".join(lines[telling[-1] : telling[-1] + (2 if lines[telling[-1]].endswith(":") else 1)])
    return f"{lines[0][:300].rstrip(':')} ({last[:300]})"
