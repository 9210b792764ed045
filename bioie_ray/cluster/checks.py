"""The single checks of `bioie doctor`: each looks at one thing and says what it found and, where that is red, how to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from bioie_ray.cluster.api import RAY, ApiError, Cluster, ClusterError, Permission
from bioie_ray.cluster.capacity import GPU, NodeCapacity, node_capacities, show_amount
from bioie_ray.cluster.naming import HEAD_ACCOUNT, STANDING_CLUSTER, SUBMITTER_ACCOUNT, WORKER_ACCOUNT
from bioie_ray.config.cluster import KubeSettings

State = Literal["ok", "warning", "failed", "unknown"]
Json = Mapping[str, Any]

_BASE = "kubectl apply -k k8s/overlays/local (or k8s/base)"
KUBERAY = "1.6"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. Only `failed` makes the exit code 1; `unknown` could not be looked at from here."""

    name: str
    state: State
    found: str
    fix: str = ""


def check_rights(cluster: Cluster, namespace: str) -> Iterator[Check]:
    """Every verb that submit, logs, status and cancel need, asked of the server."""
    needed = [Permission(verb, "rayjobs", "ray.io", namespace=namespace) for verb in ("create", "get", "list", "delete")]
    needed += [Permission("list", "rayclusters", "ray.io", namespace=namespace), Permission("list", "pods", namespace=namespace)]
    needed += [Permission("get", "pods", subresource="log", namespace=namespace), Permission("list", "events", namespace=namespace)]
    useful = {
        Permission("list", "nodes"): "what the cluster has when a pod finds no node",
        Permission("list", "pods"): "how much of it is free",
        Permission("list", "deployments", "apps"): "whether the operator runs",
        Permission("get", "rayclusters", "ray.io", namespace=namespace): "--to ray",
        Permission("get", "pods", subresource="portforward", namespace=namespace): "--to ray",
    }
    with ThreadPoolExecutor(8) as pool:
        allowed = dict(zip([*needed, *useful], pool.map(cluster.allowed, [*needed, *useful]), strict=True))
    missing = [str(permission) for permission in needed if not allowed[permission]]
    if missing:
        fix = f"have the role bioie-client bound to you: kubectl -n {namespace} create rolebinding NAME --role=bioie-client --user=YOU"
        yield Check("rights", "failed", f"you may not {', '.join(missing)} in namespace {namespace}", fix)
    else:
        yield Check("rights", "ok", f"submit, status, logs and cancel are allowed in namespace {namespace}")
    less = [f"{permission} ({what})" for permission, what in useful.items() if not allowed[permission]]
    if less:
        yield Check("further rights", "warning", f"you may not {', '.join(less)}", "fine to work without; explanations then say less")


def check_operator(cluster: Cluster) -> Iterator[Check]:
    """KubeRay's CRDs, and its operator."""
    group = cluster.find("/apis/ray.io")
    if group is None:
        yield Check(
            "KubeRay CRDs", "failed", "the cluster has no RayJob resource", f"install KubeRay {KUBERAY} with its CRDs (k8s/README.md)"
        )
        return
    versions = [version["version"] for version in group.get("versions") or ()]
    kinds = {resource["kind"] for resource in (cluster.find(RAY) or {}).get("resources") or ()}
    if "v1" not in versions or not {"RayJob", "RayCluster"} <= kinds:
        found = f"ray.io serves {', '.join(versions)} with {', '.join(sorted(kinds)) or 'no kinds in v1'}"
        yield Check("KubeRay CRDs", "failed", found, f"upgrade KubeRay and its CRDs to {KUBERAY}")
    else:
        yield Check(
            "KubeRay CRDs", "ok", f"ray.io/{', '.join(versions)}: {', '.join(sorted(kind for kind in kinds if kind.startswith('Ray')))}"
        )
    try:
        operators = cluster.items("/apis/apps/v1/deployments", labels="app.kubernetes.io/component=kuberay-operator")
    except ApiError as error:
        if error.status != 403:
            raise
        yield Check(
            "KubeRay operator",
            "unknown",
            "you may not list deployments",
            "ask: kubectl get deploy -A -l app.kubernetes.io/component=kuberay-operator",
        )
        return
    if not operators:
        yield Check(
            "KubeRay operator",
            "failed",
            "no deployment of it in any namespace",
            f"install KubeRay {KUBERAY} (k8s/README.md); the CRDs alone do nothing",
        )
    for operator in operators:
        yield _operator(operator)


def _operator(operator: Json) -> Check:
    name, namespace = operator["metadata"]["name"], operator["metadata"]["namespace"]
    image = operator["spec"]["template"]["spec"]["containers"][0]["image"]
    version = re.search(r":v?(\d+\.\d+(?:\.\d+)?)", image)
    ready, wanted = (operator.get("status") or {}).get("readyReplicas") or 0, operator["spec"].get("replicas", 1)
    found = f"{namespace}/{name}, version {version[1] if version else f'unknown ({image})'}, {ready} of {wanted} ready"
    if wanted == 0:
        return Check("KubeRay operator", "failed", found, f"kubectl -n {namespace} scale deployment {name} --replicas=1")
    if ready == 0:
        return Check("KubeRay operator", "failed", found, f"see why: kubectl -n {namespace} describe deployment {name}")
    if version and not version[1].startswith(KUBERAY):
        return Check("KubeRay operator", "warning", found, f"manifests are made for and tested with KubeRay {KUBERAY}")
    return Check("KubeRay operator", "ok", found)


def check_namespace(cluster: Cluster, kube: KubeSettings) -> Iterator[Check]:
    """The namespace and everything that the pods of a job expect in it."""
    namespace = kube.namespace
    try:
        found = cluster.find(f"/api/v1/namespaces/{namespace}")
    except ApiError as error:
        if error.status != 403:
            raise
        yield Check("namespace", "unknown", f"you may not read the namespace {namespace} itself")
    else:
        if found is None:
            yield Check("namespace", "failed", f"there is no namespace {namespace}", _BASE)
            return
        level = (found["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce", "none")
        state: State = "ok" if level == "restricted" else "warning"
        yield Check(
            "namespace",
            state,
            f"{namespace}, Pod Security: {level}",
            "" if state == "ok" else "our pods pass `restricted`: enforce it, as k8s/base does",
        )
    wanted = [("serviceaccounts", account, _BASE) for account in (HEAD_ACCOUNT, WORKER_ACCOUNT, SUBMITTER_ACCOUNT)]
    if kube.storage_secret:
        fix = f"kubectl -n {namespace} create secret generic {kube.storage_secret} --from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=..."
        wanted.append(("secrets", kube.storage_secret, f"{fix}, or set cluster.kube.storage_secret=null"))
    wanted += [
        (
            "secrets",
            name,
            f"kubectl -n {namespace} create secret generic {name} --from-literal=VARIABLE=..., or take it out of cluster.kube.env_secrets",
        )
        for name in kube.env_secrets
    ]
    if kube.ca_config_map:
        wanted.append(
            ("configmaps", kube.ca_config_map, f"kubectl -n {namespace} create configmap {kube.ca_config_map} --from-file=ca.crt")
        )
    if kube.storage_claim:
        wanted.append(("persistentvolumeclaims", kube.storage_claim, "create the claim, or set cluster.kube.storage_claim to another"))
    wanted += [("secrets", name, f"kubectl -n {namespace} create secret docker-registry {name} ...") for name in kube.image_pull_secrets]
    if kube.priority_class and kube.profile == "elastic":
        yield _present(
            cluster, f"/apis/scheduling.k8s.io/v1/priorityclasses/{kube.priority_class}", "priorityclasses", "kubectl get priorityclasses"
        )
    for kind, name, fix in wanted:
        yield _present(cluster, f"/api/v1/namespaces/{namespace}/{kind}/{name}", kind, fix)


def _present(cluster: Cluster, path: str, kind: str, fix: str) -> Check:
    what = {
        "serviceaccounts": "service account",
        "secrets": "Secret",
        "configmaps": "ConfigMap",
        "persistentvolumeclaims": "volume claim",
    }.get(kind, "priority class")
    name = path.rsplit("/", 1)[-1]
    try:
        found = cluster.find(path)
    except ApiError as error:
        if error.status != 403:
            raise
        return Check(what, "unknown", f"{name}: you may not look")
    if found is None:
        return Check(what, "failed", f"{name} is missing", fix)
    if kind == "secrets" and not found.get("data"):
        return Check(what, "warning", f"{name} is empty", fix)
    return Check(what, "ok", name if kind != "secrets" else f"{name}: {', '.join(sorted(found['data']))}")


def check_capacity(cluster: Cluster, kube: KubeSettings) -> Iterator[Check]:
    """Free CPUs, memory and GPUs, and whether the largest pod of the recipe would find a node."""
    try:
        nodes = cluster.items("/api/v1/nodes")
    except ApiError as error:
        if error.status != 403:
            raise
        yield Check("capacity", "unknown", "you may not list nodes")
        return
    try:
        pods: list[dict[str, Any]] | None = cluster.items("/api/v1/pods")
    except ApiError as error:
        if error.status != 403:
            raise
        pods = None
    usable = [node for node in node_capacities(nodes, pods or ()) if node.usable]
    what = "free" if pods is not None else "in all (you may not list pods, so what is free is unknown)"
    total = {
        name: sum((node.free if pods is not None else node.allocatable).get(name, 0.0) for node in usable)
        for name in ("cpu", "memory", GPU)
    }
    found = f"{len(usable)} of {len(nodes)} nodes ready; {what}: {', '.join(show_amount(name, amount) for name, amount in total.items())}"
    if not usable:
        yield Check("capacity", "failed", found, "see: kubectl describe nodes")
        return
    yield from _fits(usable, kube, found)


def _fits(nodes: list[NodeCapacity], kube: KubeSettings, found: str) -> Iterator[Check]:
    groups = {"head": kube.head, **{f"workers.{name}": group for name, group in kube.workers.items()}}
    short = []
    for name, pod in groups.items():
        needs = {"cpu": pod.cpus, "memory": pod.memory_gib * 2**30, GPU: float(getattr(pod, "gpus", 0))}
        fitting = [node for node in nodes if all(node.allocatable.get(key, 0.0) >= amount for key, amount in needs.items())]
        if not fitting:
            asked = ", ".join(show_amount(key, amount) for key, amount in needs.items() if amount)
            short.append(f"no node is large enough for a pod of cluster.kube.{name} ({asked})")
    if short:
        yield Check(
            "capacity",
            "warning",
            f"{found}; {'; '.join(short)}",
            "make the pods smaller in the recipe, or see to it that an autoscaler adds such a node",
        )
    else:
        yield Check("capacity", "ok", found)
    with_gpus = [
        f"{node.name}: {show_amount(GPU, node.free.get(GPU, 0.0))} free of {node.allocatable[GPU]:g}"
        for node in nodes
        if node.allocatable.get(GPU)
    ]
    wanted = any(group.gpus for group in kube.workers.values())
    if with_gpus or wanted:
        state: State = "ok" if with_gpus else "warning"
        fix = "" if with_gpus else "install NVIDIA's device plugin on the GPU nodes; nodes that an autoscaler adds need it too"
        yield Check("GPUs", state, "; ".join(with_gpus) or "no node offers nvidia.com/gpu", fix)


def check_queues(cluster: Cluster, kube: KubeSettings) -> Iterator[Check]:
    """Kueue, and the standing cluster: both optional, unless the recipe asks for one."""
    group = cluster.find("/apis/kueue.x-k8s.io")
    if kube.queue is not None:
        if group is None:
            yield Check(
                "Kueue",
                "failed",
                "not installed, and the recipe waits in one of its queues",
                "install Kueue, or set cluster.kube.profile=elastic",
            )
        else:
            path = f"/apis/kueue.x-k8s.io/{group['preferredVersion']['version']}/namespaces/{kube.namespace}/localqueues/{kube.queue}"
            there = cluster.find(path) is not None
            fix = f"kubectl -n {kube.namespace} get localqueues; set cluster.kube.queue to one of them"
            yield Check(
                "Kueue", "ok" if there else "failed", f"LocalQueue {kube.queue}{'' if there else ' is missing'}", "" if there else fix
            )
    else:
        yield Check(
            "Kueue", "ok", "not installed; only cluster.kube.profile=queued needs it" if group is None else "installed; not asked for"
        )
    try:
        standing = cluster.find(f"{RAY}/namespaces/{kube.namespace}/rayclusters/{STANDING_CLUSTER}")
    except ApiError as error:
        if error.status != 403:
            raise
        return
    state = ((standing or {}).get("status") or {}).get("state") or "not ready yet"
    yield Check(
        "standing cluster",
        "ok",
        f"{STANDING_CLUSTER}: {state}" if standing else "none; only --to ray needs it (kubectl apply -f k8s/raycluster.yaml)",
    )


def guarded(name: str, checks: Callable[[], Iterator[Check]]) -> list[Check]:
    """All lines of one group of checks; an error of the cluster's is a line too."""
    found: list[Check] = []
    try:
        found.extend(checks())
    except ClusterError as error:
        found.append(Check(name, "failed", str(error), "see the message"))
    return found
