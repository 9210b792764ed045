"""A recipe as a RayJob (KubeRay 1.6), complete in one object: cluster, job, and the recipe itself.

The recipe travels as an annotation of the head's pod and is a file there; the entrypoint is the same job file that runs on a
laptop. API: https://ray-project.github.io/kuberay/reference/api/#rayjob. Why each setting is as it is stands beside it in the
YAML (``manifest_yaml.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from bioie_ray.cluster import naming
from bioie_ray.cluster.manifest_yaml import to_yaml
from bioie_ray.cluster.pods import (
    STORE_FOLDER,
    Common,
    Driven,
    autoscaler_options,
    head_template,
    ray_start_params,
    submitter_template,
    worker_template,
)
from bioie_ray.cluster.resources import Sizes, size_pods
from bioie_ray.cluster.rules import check_raycronjob, check_rayjob
from bioie_ray.config.cluster import KubeSettings, WorkerGroupSettings
from bioie_ray.config.recipe import Recipe

__all__ = ["RAY_VERSION", "ray_cluster_spec", "read_recipe_text", "recipe_text", "render_raycronjob", "render_rayjob", "to_yaml"]

# The Ray of the image (images/requirements/): the operator reads it to know which probes and which tokens Ray understands.
RAY_VERSION = "2.60.0"
Json = dict[str, Any]
# Attempts of the submitter's pod at one head. Kubernetes waits 10, 20, 40 and 80 s between them: a head that was lost has
# 150 s to be back before the whole cluster is given up.
SUBMITTER_RETRIES = 4


def render_rayjob(recipe: Recipe, *, image: str, suffix: str = "") -> Json:
    """The RayJob of a recipe. The same recipe gives the same name, unless ``suffix`` asks for another run.

    Raises:
        ValueError: pods too small for the job, a store that would be lost with its pod, or what the operator would refuse.
    """
    _check_store(recipe)
    kube = recipe.cluster.kube
    name = naming.job_name(recipe, suffix=suffix)
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": name,
            "namespace": kube.namespace,
            "labels": {**naming.labels(recipe), **_queue_labels(kube)},
        },
        "spec": _spec(recipe, image, entrypoint=f"python jobs/{recipe.job}.py --recipe {naming.RECIPE_FILE}", name=name),
    }
    check_rayjob(manifest)
    return manifest


def render_raycronjob(recipe: Recipe, *, image: str, schedule: str) -> Json:
    """The recipe every time the schedule (five fields of cron, UTC) comes round, each under the version of its day.

    Raises:
        ValueError: as ``render_rayjob``; or a recipe for a queue, whose label the operator would not hand on.
    """
    _check_store(recipe)
    kube = recipe.cluster.kube
    if kube.profile == "queued":
        raise ValueError(
            "a RayCronJob cannot wait in a Kueue queue: KubeRay 1.6 gives its RayJobs no label, so Kueue would not see them; "
            "set cluster.kube.profile=elastic"
        )
    # Expanded by the shell of the submitter. Two RayJobs of one tick get the same day, so they are two runs of one recipe.
    today = "$(date -u +%Y-%m-%d)"
    entrypoint = f"python jobs/{recipe.job}.py --recipe {naming.RECIPE_FILE} --set corpus_version={today} --set version={today}"
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": {
            "name": naming.dns_name(recipe.name, naming.MAX_RAYCRONJOB_NAME),
            "namespace": kube.namespace,
            "labels": naming.labels(recipe),
        },
        "spec": {"schedule": schedule, "jobTemplate": _spec(recipe, image, entrypoint=entrypoint)},
    }
    check_raycronjob(manifest)
    return manifest


def recipe_text(recipe: Recipe, sizes: Sizes) -> str:
    """The resolved recipe as YAML, for the pod: with the number of actors, and without the places that the pod knows better."""
    data = naming.without_places(recipe)
    data["cluster"]["num_workers"] = sizes.num_workers
    data["cluster"]["kube"] = recipe.cluster.kube.model_dump(mode="json", exclude_defaults=True)  # the manifest around it says all
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def read_recipe_text(manifest: Mapping[str, Any]) -> str:
    """The recipe inside a rendered RayJob."""
    template = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    text: str = template["metadata"]["annotations"][naming.RECIPE_ANNOTATION]
    return text


def _spec(recipe: Recipe, image: str, *, entrypoint: str, name: str | None = None) -> Json:
    kube = recipe.cluster.kube
    sizes = size_pods(recipe)
    common = Common(kube, image, naming.pod_labels(recipe), names_store="store" in recipe.model_fields_set)
    return {
        "entrypoint": entrypoint,
        "submissionMode": "K8sJobMode",
        "submitterConfig": {"backoffLimit": SUBMITTER_RETRIES},
        "backoffLimit": kube.max_attempts - 1,
        "activeDeadlineSeconds": kube.deadline_s,
        **_endings(kube),
        "submitterPodTemplate": submitter_template(common),
        "rayClusterSpec": ray_cluster_spec(common, sizes, Driven(recipe_text(recipe, sizes), name)),
    }


def ray_cluster_spec(common: Common, sizes: Sizes, driven: Driven | None = None) -> Json:
    """The cluster of a RayJob, or a standing one."""
    kube = common.kube
    elastic = kube.profile == "elastic"
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": elastic,
        **({"autoscalerOptions": autoscaler_options(kube)} if elastic else {}),
        "headGroupSpec": {
            "rayStartParams": ray_start_params(sizes.head, head=True),
            "template": head_template(common, sizes.head, driven),
        },
        "workerGroupSpecs": [
            {
                "groupName": name,
                **_replicas(group, elastic=elastic),
                "rayStartParams": ray_start_params(sizes.groups[name], head=False),
                "template": worker_template(common, group, sizes.groups[name]),
            }
            for name, group in kube.workers.items()
        ],
    }


def _replicas(group: WorkerGroupSettings, *, elastic: bool) -> Json:
    if elastic:
        return {"replicas": group.min_replicas, "minReplicas": group.min_replicas, "maxReplicas": group.max_replicas}
    return dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), group.max_replicas)


def _queue_labels(kube: KubeSettings) -> dict[str, str]:
    if kube.queue is None:
        return {}
    priority = {"kueue.x-k8s.io/priority-class": kube.priority_class} if kube.priority_class is not None else {}
    return {"kueue.x-k8s.io/queue-name": kube.queue, **priority}


def _endings(kube: KubeSettings) -> Json:
    """What is deleted when. The two profiles exclude each other: Kueue wants the one flag, and the operator wants it alone."""
    if kube.profile == "queued":
        return {"suspend": True, "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": kube.keep_after_finish_s}
    rules = [
        {"policy": policy, "condition": {**state, "ttlSeconds": seconds}}
        for state in ({"jobStatus": "SUCCEEDED"}, {"jobDeploymentStatus": "Failed"})
        for policy, seconds in (("DeleteCluster", kube.keep_after_finish_s), ("DeleteSelf", kube.forget_after_s))
    ]
    return {"shutdownAfterJobFinishes": False, "deletionStrategy": {"deletionRules": rules}}


def _check_store(recipe: Recipe) -> None:
    kube = recipe.cluster.kube
    if recipe.cluster.executor == "inline":
        raise ValueError(
            "cluster.executor=inline uses no Ray, so its pods would stay idle; set cluster.executor=ray, or run it by `bioie run`"
        )
    if "store" not in recipe.model_fields_set:
        if kube.storage_claim is None and kube.site_config_map is None:
            raise ValueError(
                "the recipe has no store, and cluster.kube names neither a storage_claim nor a site_config_map that would say where outputs go; "
                "set store=s3://BUCKET/PREFIX, or one of the two"
            )
        return
    folder = recipe.store.removeprefix("file://")
    if "://" not in folder and not (kube.storage_claim and f"{folder}/".startswith(f"{STORE_FOLDER}/")):
        raise ValueError(
            f"store={recipe.store} would be a folder inside a pod, lost with it; set store=s3://BUCKET/PREFIX, or mount a volume by "
            f"cluster.kube.storage_claim and set store={STORE_FOLDER} or a folder below it"
        )
