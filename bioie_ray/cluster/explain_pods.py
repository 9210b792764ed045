"""Causes that pods show: images, configuration, scheduling, crashes, memory. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bioie_ray.cluster.capacity import explain_unschedulable, parse_quantity
from bioie_ray.cluster.explain import Finding
from bioie_ray.cluster.pod_view import role_of
from bioie_ray.cluster.snapshot import Snapshot, event_time, parse_time, unschedulable_message

Json = Mapping[str, Any]

_NOT_READY_GRACE_S = 90.0
_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"}
# Part of the runtime's message -> what it means, what to do, whether waiting cannot help
_IMAGE_CAUSES = (
    (r"not found|manifest unknown|NotFound", "the registry has no such image", "push it (scripts/push_image.sh), or set cluster.kube.image to one that is there", True),
    (r"no such host|server misbehaving", "the registry's name is not known to the node", "check the host in cluster.kube.image", True),
    (r"unauthorized|denied|authentication|authoriz|403", "the registry asks for credentials", "name a pull secret in cluster.kube.image_pull_secrets", True),
    (r"HTTP response to HTTPS client", "the registry speaks plain HTTP", "have the node's container runtime trust it as an insecure registry", True),
    (r"x509|certificate", "the node does not trust the registry's certificate", "give the node's container runtime the registry's CA", True),
    (r"no match for platform|exec format", "the image is for another CPU architecture", "build it for the nodes' platform", True),
    (r"no space left", "the node's disk is full", "free space on the node: crictl rmi --prune", True),
    (r"ErrImageNeverPull|not present with pull policy", "it is not on the node and may not be pulled", "set cluster.kube.image_pull_policy=IfNotPresent", True),
    (r"couldn't parse|InvalidImageName|invalid reference", "its name is not a valid image reference", "mend cluster.kube.image", True),
)  # fmt: skip


def explain_pods(snapshot: Snapshot) -> Iterator[Finding]:
    """One finding for each cause, however many pods show it."""
    for pod in snapshot.pods:
        if pod["metadata"].get("deletionTimestamp"):
            yield from _stuck_deletion(pod, snapshot)
            continue
        message = unschedulable_message(pod)
        if message is not None:
            yield _unscheduled(pod, message, snapshot)
        yield from _mounts(pod, snapshot)
        yield from _evicted(pod)
        status = pod.get("status") or {}
        for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            yield from _container(pod, container, snapshot)
    yield from _replaced(snapshot)


def _unscheduled(pod: Json, message: str, snapshot: Snapshot) -> Finding:
    what, settings = role_of(pod)
    shortage = explain_unschedulable(pod, message, snapshot.nodes, snapshot.all_pods, settings)
    growing = any(
        e.get("reason") == "TriggeredScaleUp" and (e.get("involvedObject") or {}).get("name") == pod["metadata"]["name"]
        for e in snapshot.events
    )
    step = "a node is being added; wait for it" if growing else shortage.next_step
    # the numbers of free capacity move all the time; the cause is the same while the resource and the role are
    kind = "/".join(re.findall(r"Insufficient ([\w./-]*\w)", message)) or shortage.sentence
    return Finding(f"unschedulable/{what}/{kind}", f"{what} finds no node: {shortage.sentence}", step, shortage.lasting and not growing)


def _container(pod: Json, container: Json, snapshot: Snapshot) -> Iterator[Finding]:
    what, settings = role_of(pod)
    name = container.get("name", "")
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting = state.get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    ended = state.get("terminated") or last.get("terminated") or {}
    if reason in _IMAGE_REASONS:
        yield _image(str(container.get("image") or _image_of(pod, name)), reason, message, what)
    elif reason in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}:
        yield _configuration(what, reason, message, snapshot.namespace)
    elif ended.get("reason") in _CANNOT_RUN:
        yield _cannot_run(what, str(ended.get("message") or ended["reason"]))
    elif ended.get("reason") == "OOMKilled":
        yield _out_of_memory(what, settings, name, _limit(pod, name))
    elif reason == "CrashLoopBackOff":
        times = container.get("restartCount", 0)
        yield Finding(
            f"crash/{what}/{name}",
            f"{what} crashes again and again: its container {name} ended {times} times, last with exit code {ended.get('exitCode')}",
            f"see what it says: kubectl -n {snapshot.namespace} logs {pod['metadata']['name']} -c {name} --previous",
            lasting=True,
        )
    elif "terminated" in state and ended.get("exitCode") and what == "the submitter pod":
        yield Finding(
            f"ended/{what}",
            f"{what} ended with exit code {ended.get('exitCode')}; its Kubernetes Job starts another while tries are left",
            f"bioie logs {snapshot.name} shows its last lines",
        )
    elif "running" in state and not container.get("ready", True) and not pod["metadata"].get("deletionTimestamp"):
        yield from _not_ready(pod, container, what, snapshot)


def _image(image: str, reason: str, message: str, what: str) -> Finding:
    text = f"{reason} {message}"
    for pattern, cause, step, lasting in _IMAGE_CAUSES:
        if re.search(pattern, text.replace(image, "")):
            return Finding(f"image/{image}", f"the image {image} of {what} cannot be pulled: {cause}", step, lasting)
    detail = message.rsplit(": ", maxsplit=1)[-1] if message else reason
    return Finding(
        f"image/{image}",
        f"the image {image} of {what} cannot be pulled: {detail}",
        "check cluster.kube.image, and that nodes reach the registry",
    )


def _configuration(what: str, reason: str, message: str, namespace: str) -> Finding:
    missing = re.search(r"(secret|configmap) \"([^\"]+)\" not found", message)
    if missing:
        kind, name = missing.groups()
        setting = "cluster.kube.storage_secret or env_secrets" if kind == "secret" else "cluster.kube.ca_config_map"
        step = f"make it: kubectl -n {namespace} create {'secret generic' if kind == 'secret' else 'configmap'} {name} ... (k8s/README.md), or change {setting}"
        return Finding(
            f"missing/{kind}/{name}",
            f"{what} cannot start: the {_KINDS[kind]} {name} does not exist in the namespace {namespace}",
            step,
            lasting=True,
        )
    key = re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", message)
    if key:
        name = key[3].rpartition("/")[2]
        field = "stringData" if key[2] == "Secret" else "data"
        step = f'add it: kubectl -n {namespace} patch {key[2].lower()} {name} --type=merge -p \'{{"{field}":{{"{key[1]}":"..."}}}}\''
        return Finding(f"missing/{name}/{key[1]}", f"{what} cannot start: the {key[2]} {name} has no key {key[1]}", step, lasting=True)
    return Finding(
        f"configuration/{what}/{reason}",
        f"{what} cannot start: {message or reason}",
        "mend that; the kubelet tries again by itself",
        lasting=True,
    )


_KINDS = {"secret": "Secret", "configmap": "ConfigMap"}


def _cannot_run(what: str, message: str) -> Finding:
    """The container was made, but its program could not be started: a wrong image, mostly."""
    detail = re.sub(
        r"^.*(?:runc create failed|OCI runtime create failed|unable to start container process)[^:]*: (?:error during container init: )?",
        "",
        message,
    )
    return Finding(
        f"cannot-run/{what}",
        f"{what} cannot start: {' '.join(detail.split())[:200]}",
        "is cluster.kube.image one of ours? It has to hold bash, Ray and bioie_ray (scripts/build_image.sh)",
        lasting=True,
    )


_CANNOT_RUN = {"StartError", "ContainerCannotRun"}


def _out_of_memory(what: str, settings: str, container: str, limit: str | None) -> Finding:
    size = f" of {limit}" if limit else ""
    if container not in {"ray-head", "ray-worker"} and not container.startswith("ray-"):
        settings = "cluster.kube"
    return Finding(
        f"oom/{what}",
        f"{what} was killed for memory: its container {container} went over its limit{size} (OOMKilled)",
        f"raise {settings}.memory_gib, or lower {settings}.object_store_share or the actors of a pod (ray_cpus)",
        lasting=what == "the head pod",
    )


def _not_ready(pod: Json, container: Json, what: str, snapshot: Snapshot) -> Iterator[Finding]:
    started = parse_time(((container.get("state") or {}).get("running") or {}).get("startedAt"))
    if started is None or (snapshot.now - started).total_seconds() < _NOT_READY_GRACE_S:
        return
    probes = [
        e
        for e in snapshot.events
        if e.get("reason") == "Unhealthy" and (e.get("involvedObject") or {}).get("name") == pod["metadata"]["name"]
    ]
    detail = f": {' '.join(str(probes[-1].get('message')).split())[:200]}" if probes else ""
    yield Finding(
        f"unready/{what}",
        f"{what} runs but is not ready after {(snapshot.now - started).total_seconds():.0f} s{detail}",
        f"bioie logs {snapshot.name} --workers shows what it says; a slow node or too few cpus are common causes",
    )


def _mounts(pod: Json, snapshot: Snapshot) -> Iterator[Finding]:
    """Volumes: nothing of them is in the pod's status, only in events."""
    status = pod.get("status") or {}
    if status.get("phase") != "Pending":
        return
    what, _ = role_of(pod)
    for event in snapshot.events:
        involved = event.get("involvedObject") or {}
        if involved.get("name") == pod["metadata"]["name"] and event.get("reason") in {
            "FailedMount",
            "FailedAttachVolume",
            "FailedCreatePodSandBox",
        }:
            text = " ".join(str(event.get("message")).split())
            missing = re.search(r"(secret|configmap) \"([^\"]+)\" not found", text)
            if missing:
                yield _configuration(what, "FailedMount", missing[0], snapshot.namespace)
            else:
                seen = event_time(event)
                if seen and (snapshot.now - seen).total_seconds() < 60.0:
                    step = f"kubectl -n {snapshot.namespace} describe pod {pod['metadata']['name']}"
                    yield Finding(f"mount/{what}", f"{what} cannot start: {text.split(': ', 1)[-1][:250]}", step)


def _evicted(pod: Json) -> Iterator[Finding]:
    status = pod.get("status") or {}
    what, settings = role_of(pod)
    if status.get("reason") == "Evicted":
        message = " ".join(str(status.get("message")).split()).rstrip(". ")
        step = f"raise {settings}.spill_gib" if "ephemeral" in message else "give the nodes more room, or the pods more requests"
        yield Finding(f"evicted/{what}", f"{what} was evicted: {message[:250]}", f"{step}; it is started again by itself")


def _stuck_deletion(pod: Json, snapshot: Snapshot) -> Iterator[Finding]:
    """A pod whose node does not answer stays until the node comes back or is removed."""
    ends = parse_time(pod["metadata"]["deletionTimestamp"])
    late_s = 0.0 if ends is None else (snapshot.now - ends).total_seconds()
    if late_s > 10.0:
        what, _ = role_of(pod)
        node = pod.get("spec", {}).get("nodeName")
        yield Finding(
            f"stuck/{pod['metadata']['name']}",
            f"{what} {pod['metadata']['name']} should have ended {late_s:.0f} s ago, but its node {node} does not say so",
            f"see whether the node is down: kubectl get node {node}; a new pod is made elsewhere by itself",
        )


def _replaced(snapshot: Snapshot) -> Iterator[Finding]:
    """Pods that ended and that the operator took away at once: only its events remember them."""
    names = {cluster["metadata"]["name"] for cluster in snapshot.clusters}
    counts: dict[tuple[str, str], int] = {}
    for event in snapshot.events:
        involved = event.get("involvedObject") or {}
        if (
            involved.get("kind") != "RayCluster"
            or involved.get("name") not in names
            or event.get("reason") not in {"DeletedHeadPod", "DeletedWorkerPod"}
        ):
            continue
        ended = re.search(
            r"Deleted (head|worker) Pod \S+?;.*ContainerStateTerminated\{ExitCode:(\d+),.*?Reason:(\w*),Message:(.*)",
            str(event.get("message")),
            re.DOTALL,
        )
        if ended is None or ended[2] == "0":
            continue
        group = "the head pod" if ended[1] == "head" else "a worker pod"
        if ended[3] in _CANNOT_RUN:
            yield _cannot_run(group, ended[4].split(",StartedAt:")[0])
            continue
        cause = ended[3] if ended[3] == "OOMKilled" else ended[2]
        counts[group, cause] = counts.get((group, cause), 0) + int(event.get("count") or 1)
    for (what, cause), times in counts.items():
        settings = "cluster.kube.head" if what == "the head pod" else "cluster.kube.workers"
        if cause == "OOMKilled":
            yield _out_of_memory(what, settings, "ray-head" if what == "the head pod" else "ray-worker", _limit_of(snapshot, what))
        else:
            yield Finding(
                f"replaced/{what}",
                f"{what} ended with exit code {cause} and was replaced, {times} {'time' if times == 1 else 'times'} so far",
                f"see its last lines: bioie logs {snapshot.name} --workers",
                lasting=what == "the head pod" and times >= 3,
            )


def _limit_of(snapshot: Snapshot, what: str) -> str | None:
    spec = (snapshot.job or {}).get("spec", {}).get("rayClusterSpec") or {}
    groups = [spec.get("headGroupSpec") or {}] if what == "the head pod" else spec.get("workerGroupSpecs") or []
    limits = {_limit(group.get("template") or {}, "") for group in groups} - {None}
    return limits.pop() if len(limits) == 1 else None


def _limit(pod: Json, container: str) -> str | None:
    """Memory limit of a container (of the first one where the name is empty), as a person writes it."""
    containers = (pod.get("spec") or {}).get("containers") or []
    found = next((c for c in containers if not container or c.get("name") == container), None)
    limit = ((found or {}).get("resources") or {}).get("limits", {}).get("memory")
    return None if limit is None else f"{parse_quantity(limit) / 2**30:.3g} GiB"


def _image_of(pod: Json, container: str) -> str:
    spec = pod.get("spec") or {}
    return next(
        (str(c.get("image")) for c in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())] if c.get("name") == container),
        "?",
    )
