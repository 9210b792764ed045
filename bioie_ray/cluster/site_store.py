"""The store of a submitted job, seen from here: for logs after the pods are gone, and for `bioie doctor`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import yaml

from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.cluster.api import ApiError, Cluster, ClusterError
from bioie_ray.cluster.rayjob import read_recipe_text
from bioie_ray.config.cluster import KubeSettings
from bioie_ray.config.recipe import Recipe, with_site

T = TypeVar("T")


def at_site(recipe: Recipe, cluster: Cluster) -> Recipe:
    """The recipe with the pods, registry and so on that the site has for recipes that do not say: key `cluster` of its ConfigMap.

    Raises:
        RecipeError: what the site says cannot be used.
    """
    kube = recipe.cluster.kube
    text = _site(cluster, kube).get("cluster")
    return (
        recipe
        if text is None
        else with_site(recipe, text, f"`cluster` of the ConfigMap {kube.site_config_map} in namespace {kube.namespace}")
    )


def store_of_recipe(recipe: Recipe, cluster: Cluster | None) -> StoreAddress | None:
    """Where a recipe's outputs go when it runs in the cluster; None where only the pods know (a volume, or a ConfigMap that may not be read)."""
    kube = recipe.cluster.kube
    named = "store" in recipe.model_fields_set
    site = {} if cluster is None else _site(cluster, kube)
    store = recipe.store if named else site.get("store", None if kube.storage_claim or cluster is not None else recipe.store)
    if store is None or (kube.storage_claim is not None and "://" not in store):
        return None
    endpoint = (
        recipe.storage.endpoint if "endpoint" in recipe.storage.model_fields_set else site.get("storage-endpoint", recipe.storage.endpoint)
    )
    return StoreAddress(store, endpoint, recipe.storage.region)


def store_of_job(job: Mapping[str, Any], cluster: Cluster) -> StoreAddress | None:
    """The store of a RayJob, from the recipe inside it."""
    try:
        recipe = Recipe.model_validate(yaml.safe_load(read_recipe_text(job)))
    except (KeyError, TypeError, ValueError, yaml.YAMLError):  # not one of ours, or of another version
        return None
    return store_of_recipe(recipe, cluster)


def within(seconds: float, call: Callable[[], T], what: str) -> T:
    """The result of a call that may hang longer than anybody wants to wait (object stores try again for a minute).

    Raises:
        ClusterError: no result in time.
    """
    result: list[T] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as caught:  # noqa: BLE001 - handed to the caller's thread
            error.append(caught)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if error:
        raise error[0]
    if not result:
        raise ClusterError(f"{what} did not answer within {seconds:.0f} s")
    return result[0]


def _site(cluster: Cluster, kube: KubeSettings) -> dict[str, str]:
    """What the namespace's ConfigMap says of where things are."""
    if kube.site_config_map is None:
        return {}
    try:
        found = cluster.find(f"/api/v1/namespaces/{kube.namespace}/configmaps/{kube.site_config_map}")
    except ApiError as error:
        if error.status == 403:
            return {}
        raise
    return dict((found or {}).get("data") or {})
