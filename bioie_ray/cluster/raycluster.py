"""The standing cluster: one RayCluster for everybody's ``ray job submit``, grown by the autoscaler from nothing and back to it."""

from __future__ import annotations

from typing import Any

from bioie_ray.cluster import naming
from bioie_ray.cluster.pods import Common
from bioie_ray.cluster.rayjob import ray_cluster_spec
from bioie_ray.cluster.resources import RAY_HEAD_GIB, RAY_WORKER_GIB, Sizes, check_head, pod_of
from bioie_ray.cluster.rules import check_raycluster
from bioie_ray.config.cluster import KubeSettings

Json = dict[str, Any]


def render_raycluster(kube: KubeSettings, *, image: str, name: str = naming.STANDING_CLUSTER) -> Json:
    """The RayCluster of these settings. What jobs will start in its pods is not known here, so only the pods' own sums are checked.

    Raises:
        ValueError: a profile that does not scale, pods too small for Ray itself, or what the operator would refuse.
    """
    if kube.profile != "elastic":
        raise ValueError("a standing cluster scales with its jobs; set cluster.kube.profile=elastic, or send RayJobs to the queue instead")
    sizes = Sizes(
        pod_of(kube.head, "cluster.kube.head", ray_gib=RAY_HEAD_GIB),
        {group: pod_of(kube.workers[group], f"cluster.kube.workers.{group}", ray_gib=RAY_WORKER_GIB) for group in kube.workers},
        num_workers=0,
    )
    check_head(sizes.head)
    for group, pod in sizes.groups.items():
        if pod.for_actors <= 0:
            raise ValueError(f"cluster.kube.workers.{group}.memory_gib leaves nothing to actors: raise it")
    common = Common(kube, image, {**naming.COMMON_LABELS, naming.LABEL_JOB: "standing"})
    spec = ray_cluster_spec(common, sizes)
    if kube.gcs_redis is not None:
        options: Json = {"redisAddress": kube.gcs_redis}
        if kube.gcs_redis_secret is not None:
            options["redisPassword"] = {"valueFrom": {"secretKeyRef": {"name": kube.gcs_redis_secret, "key": "password"}}}
        spec = {"gcsFaultToleranceOptions": options, **spec}
    manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {
            "name": name,
            "namespace": kube.namespace,
            "labels": {"app.kubernetes.io/name": "bioie", **naming.COMMON_LABELS},
        },
        "spec": spec,
    }
    check_raycluster(manifest)
    return manifest
