"""Submitting a recipe as a RayJob: the same recipe twice is one job, and nothing is started that cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bioie_ray.cluster.api import RAY, ApiError, Cluster, ClusterError
from bioie_ray.cluster.image import default_image
from bioie_ray.cluster.rayjob import render_rayjob
from bioie_ray.cluster.snapshot import result_of
from bioie_ray.config.recipe import Recipe

_MAX_AGAIN = 100


@dataclass(frozen=True, slots=True)
class Submission:
    """A RayJob that is there now, and how it came to be."""

    name: str
    namespace: str
    outcome: Literal["created", "running", "succeeded", "failed"]
    message: str


def submit_to_kube(cluster: Cluster, recipe: Recipe, *, again: bool = False) -> Submission:
    """Create the recipe's RayJob, or find the one that is there.

    Raises:
        ClusterError: the server refused it; the message says why and what to do.
        ValueError: the recipe cannot be rendered.
    """
    image = default_image(recipe.cluster.kube)
    namespace = recipe.cluster.kube.namespace
    manifest = render_rayjob(recipe, image=image)
    for number in range(2, _MAX_AGAIN):
        name = manifest["metadata"]["name"]
        try:
            cluster.create(_jobs(namespace), manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise _explained(error, namespace) from error
        else:
            return Submission(name, namespace, "created", f"created the RayJob {name} in namespace {namespace} (image {image})")
        if not again:
            return _existing(cluster, namespace, name)
        manifest = render_rayjob(recipe, image=image, suffix=str(number))
    raise ClusterError(
        f"there are {_MAX_AGAIN} jobs of this recipe already; remove some: bioie status lists them, bioie cancel NAME removes one"
    )


def try_submission(cluster: Cluster, recipe: Recipe) -> str:
    """What the server would say to the recipe's RayJob (server-side dry run); nothing is kept.

    Raises:
        ClusterError: it would refuse.
    """
    namespace = recipe.cluster.kube.namespace
    manifest = render_rayjob(recipe, image=default_image(recipe.cluster.kube))
    name = manifest["metadata"]["name"]
    try:
        cluster.create(_jobs(namespace), manifest, dry_run=True)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise _explained(error, namespace) from error
        return f"there is such a job already, so nothing would be created: {_existing(cluster, namespace, name).message}"
    return f"the server at {cluster.server} would accept the RayJob {name} in namespace {namespace}; nothing was created"


def _existing(cluster: Cluster, namespace: str, name: str) -> Submission:
    job: Mapping[str, Any] = cluster.find(f"{_jobs(namespace)}/{name}") or {}
    status = job.get("status") or {}
    result = result_of(status)
    if job.get("metadata", {}).get("deletionTimestamp"):
        message = f"{name} is being deleted; wait until bioie status {name} does not find it, then submit again"
        return Submission(name, namespace, "failed", message)
    if result is None:
        message = f"{name} is there already ({status.get('jobDeploymentStatus') or 'new'}): the same recipe is the same job; --again starts another"
        return Submission(name, namespace, "running", message)
    if result == "SUCCEEDED":
        message = f"{name} has succeeded already, at {status.get('endTime')}; --again runs the recipe once more (finished outputs are passed over)"
        return Submission(name, namespace, "succeeded", message)
    reason = status.get("reason") or result
    message = f"{name} has failed already ({reason}); bioie logs {name} shows why. --again starts it again: finished shards are kept"
    return Submission(name, namespace, "failed", message)


def _explained(error: ApiError, namespace: str) -> ClusterError:
    from bioie_ray.cluster.explain import explain_refusal

    if error.status == 404 and f'namespaces "{namespace}" not found' in error.server_message:
        return ClusterError(
            f"the cluster has no namespace {namespace}; make it: kubectl apply -k k8s/overlays/local (or k8s/base), or set cluster.kube.namespace"
        )
    if error.status in {403, 422, 400, 500} and "is forbidden: User" not in error.server_message:
        return ClusterError(str(explain_refusal(error.server_message, "the RayJob")))
    return error


def _jobs(namespace: str) -> str:
    return f"{RAY}/namespaces/{namespace}/rayjobs"
