"""Pod templates of head, workers and submitter, as the ``restricted`` Pod Security Standard wants them.

https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted. Root file systems are read-only: what is written
goes to memory (/dev/shm) or to volumes of the pod with a limit each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bioie_ray.cluster.naming import (
    HEAD_ACCOUNT,
    RECIPE_ANNOTATION,
    RECIPE_FILE,
    SUBMITTER_ACCOUNT,
    WORKDIR,
    WORKER_ACCOUNT,
)
from bioie_ray.cluster.quantities import resources, show_bytes, show_cpus, show_number
from bioie_ray.cluster.resources import Pod
from bioie_ray.config.cluster import KubeSettings, PodSettings

Json = dict[str, Any]

USER = 10001
SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
POD_SECURITY: Json = {
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "runAsGroup": USER,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
# Kubernetes keeps pods on a node that does not answer for 300 s: ours are replaced after 30.
DEAD_NODE_TOLERATIONS = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
    for state in ("not-ready", "unreachable")
]
TERMINATION_GRACE_S = 10
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
METRICS = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080", "prometheus.io/path": "/metrics"}
CA_BUNDLE = "/etc/bioie-ca/ca-bundle.crt"
STORE_FOLDER = "/store"
_CACHE_FOLDER = "/var/cache/bioie"
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - where Kubernetes clients look, not a secret


@dataclass(frozen=True)
class Common:
    """What all pods of a manifest share."""

    kube: KubeSettings
    image: str
    labels: Mapping[str, str]
    names_store: bool = False

    @property
    def pull(self) -> Json:
        """The image, and when it is pulled."""
        return {"image": self.image, "imagePullPolicy": self.kube.image_pull_policy}


@dataclass(frozen=True)
class Driven:
    """The one job that a head is for: its recipe, and its name where that is known beforehand."""

    recipe_text: str
    name: str | None


def head_template(common: Common, pod: Pod, driven: Driven | None) -> Json:
    """The head: Ray's services, the driver of a job, and (elastic) the autoscaler beside them. No work runs there."""
    kube = common.kube
    template = _ray_template("ray-head", common, kube.head, pod)
    spec, container = template["spec"], template["spec"]["containers"][0]
    spec["serviceAccountName"] = HEAD_ACCOUNT
    container["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
        {"name": "metrics", "containerPort": 8080},
    ]
    if driven is not None:
        template["metadata"]["annotations"][RECIPE_ANNOTATION] = driven.recipe_text
        if driven.name is not None:
            container["env"].append(_env("BIOIE_JOB_NAME", driven.name))
        folder, _, name = RECIPE_FILE.rpartition("/")
        field = {"fieldPath": f"metadata.annotations['{RECIPE_ANNOTATION}']"}
        spec["volumes"].append({"name": "recipe", "downwardAPI": {"items": [{"path": name, "fieldRef": field}]}})
        container["volumeMounts"].append({"name": "recipe", "mountPath": folder, "readOnly": True})
    if kube.profile == "elastic":
        spec["volumes"].append({"name": "api-token", "projected": {"sources": _token_sources()}})
    return template


def worker_template(common: Common, settings: PodSettings, pod: Pod) -> Json:
    """A worker: where actors run."""
    template = _ray_template("ray-worker", common, settings, pod)
    template["spec"]["serviceAccountName"] = WORKER_ACCOUNT
    template["spec"]["containers"][0]["ports"] = [{"name": "metrics", "containerPort": 8080}]
    tolerations = template["spec"]["tolerations"]
    if pod.gpus and GPU_TOLERATION not in tolerations:
        tolerations.append(GPU_TOLERATION)
    return template


def submitter_template(common: Common) -> Json:
    """The pod that hands the job to the head and follows its log: nothing of the storage's secret is in it."""
    container = {
        "name": "ray-job-submitter",
        **common.pull,
        "env": [_env("HOME", "/home/bioie"), _env("RAY_USAGE_STATS_ENABLED", "0")],
        "resources": resources("100m", "1", "512Mi", "256Mi"),
        "securityContext": SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "home", "mountPath": "/home/bioie"}],  # noqa: S108 - the pod's own
    }
    spec: Json = {
        "serviceAccountName": SUBMITTER_ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": POD_SECURITY,
        **_scheduling(common.kube, common.kube.head),
        "containers": [container],
        "volumes": [_scratch("tmp", "128Mi"), _scratch("home", "64Mi")],
    }
    return {"metadata": {"labels": dict(common.labels)}, "spec": spec}


def autoscaler_options(kube: KubeSettings) -> Json:
    """Ray's autoscaler in the head's pod. It alone has a token for the API server: code of a job, one container further, has none."""
    return {
        "version": "v2",
        "idleTimeoutSeconds": kube.idle_timeout_s,
        "imagePullPolicy": kube.image_pull_policy,
        "env": [_env("HOME", "/home/bioie"), _env("RAY_USAGE_STATS_ENABLED", "0")],
        "resources": resources("100m", "1", "512Mi", "256Mi"),  # 225 MiB at its peak, with one worker
        "securityContext": SECURITY,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod
            {"name": "home", "mountPath": "/home/bioie"},
            {"name": "api-token", "mountPath": TOKEN_FOLDER, "readOnly": True},
        ],
    }


def ray_start_params(pod: Pod, *, head: bool) -> dict[str, str]:
    """What ``ray start`` is told. CPUs of the head are 0: actors there would take the driver's and the GCS's memory.

    ``memory`` is what the sum of ``resources.py`` leaves to actors; without it the operator would say the pod's whole limit,
    object store included, and Ray would start actors in memory that is not there.
    """
    return {
        "num-cpus": "0" if head else str(pod.ray_cpus),
        "memory": str(max(0, pod.for_actors)),
        "object-store-memory": str(pod.object_store),
        **({"dashboard-host": "0.0.0.0"} if head else {}),  # noqa: S104 - the service in front of it asks for a token
    }


def _ray_template(name: str, common: Common, settings: PodSettings, pod: Pod) -> Json:
    kube = common.kube
    container: Json = {
        "name": name,
        **common.pull,
        "workingDir": WORKDIR,
        "env": _environment(common),
        "resources": _ray_resources(settings, pod),
        "securityContext": SECURITY,
        "volumeMounts": [
            {"name": "shared-mem", "mountPath": "/dev/shm"},  # noqa: S108 - Ray's object store
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod
            {"name": "ray-logs", "mountPath": "/tmp/ray"},  # noqa: S108 - sessions, logs, spilled objects
            {"name": "home", "mountPath": "/home/bioie"},
            {"name": "cache", "mountPath": _CACHE_FOLDER},
        ],
    }
    secrets = [*([kube.storage_secret] if kube.storage_secret else []), *kube.env_secrets]
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in secrets]
    spill = f"{show_number(settings.spill_gib)}Gi"
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_S,
        "securityContext": POD_SECURITY,
        **_scheduling(kube, settings),
        "containers": [container],
        "volumes": [
            {"name": "shared-mem", "emptyDir": {"medium": "Memory", "sizeLimit": show_bytes(pod.shm)}},
            _scratch("tmp", spill),
            _scratch("ray-logs", spill),
            _scratch("home", "256Mi"),
            _scratch("cache", spill),
        ],
    }
    if kube.storage_claim is not None:
        spec["volumes"].append({"name": "store", "persistentVolumeClaim": {"claimName": kube.storage_claim}})
        container["volumeMounts"].append({"name": "store", "mountPath": STORE_FOLDER})
    if kube.ca_config_map is not None:
        _trust_private_ca(spec, common)
    return {"metadata": {"labels": dict(common.labels), "annotations": dict(METRICS)}, "spec": spec}


def _environment(common: Common) -> list[Json]:
    kube = common.kube
    found = [
        _env("HOME", "/home/bioie"),
        _env("BIOIE_CACHE", _CACHE_FOLDER),
        _env("HF_HOME", f"{_CACHE_FOLDER}/hub"),  # a home is small
        _env("BIOIE_IMAGE", common.image),
        _env("RAY_USAGE_STATS_ENABLED", "0"),
    ]
    if kube.storage_claim is not None:
        found.append(_env("BIOIE_STORE", STORE_FOLDER))
    elif kube.site_config_map is not None:
        # A recipe without a store must not run where the site has none either: its outputs would be lost with the pod.
        for name, key, optional in (("BIOIE_STORE", "store", common.names_store), ("BIOIE_STORAGE_ENDPOINT", "storage-endpoint", True)):
            reference = {"name": kube.site_config_map, "key": key, **({"optional": True} if optional else {})}
            found.append({"name": name, "valueFrom": {"configMapKeyRef": reference}})
    return [*found, *(_env(name, kube.env[name]) for name in sorted(kube.env))]


def _scheduling(kube: KubeSettings, settings: PodSettings) -> Json:
    found: Json = {"tolerations": [*DEAD_NODE_TOLERATIONS, *settings.tolerations]}
    if settings.node_selector:
        found["nodeSelector"] = dict(settings.node_selector)
    if kube.priority_class is not None and kube.profile == "elastic":  # in a queue it is Kueue's priority, on the RayJob
        found["priorityClassName"] = kube.priority_class
    if kube.image_pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in kube.image_pull_secrets]
    return found


def _trust_private_ca(spec: Json, common: Common) -> None:
    """Public and private CAs in one file, made by an init container: the variables below replace the public ones, not add to them."""
    folder, mount = CA_BUNDLE.rpartition("/")[0], {"name": "ca-bundle", "mountPath": CA_BUNDLE.rpartition("/")[0]}
    spec["volumes"] += [{"name": "private-ca", "configMap": {"name": common.kube.ca_config_map}}, _scratch("ca-bundle", "8Mi")]
    spec["initContainers"] = [
        {
            "name": "ca-bundle",
            **common.pull,
            "command": ["/bin/sh", "-c", f'cat "$(python -m certifi)" /run/private-ca/ca.crt > {CA_BUNDLE}'],
            "resources": resources("100m", "1", "128Mi", "16Mi"),
            "securityContext": SECURITY,
            "volumeMounts": [mount, {"name": "private-ca", "mountPath": "/run/private-ca", "readOnly": True}],
        }
    ]
    container = spec["containers"][0]
    container["volumeMounts"].append({**mount, "mountPath": folder, "readOnly": True})
    container["env"] += [_env(name, CA_BUNDLE) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")]


def _token_sources() -> list[Json]:
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]


def _ray_resources(settings: PodSettings, pod: Pod) -> Json:
    limit = settings.max_cpus if settings.max_cpus is not None else settings.cpus
    found = resources(show_cpus(settings.cpus), show_cpus(limit), show_bytes(pod.memory), f"{show_number(settings.spill_gib)}Gi")
    if pod.gpus:
        for amounts in found.values():
            amounts["nvidia.com/gpu"] = str(pod.gpus)
    return found


def _scratch(name: str, limit: str) -> Json:
    return {"name": name, "emptyDir": {"sizeLimit": limit}}


def _env(name: str, value: str) -> Json:
    return {"name": name, "value": value}
