"""Jobs that have to wait, and what people are told: an operator that does not run, a queue. Only in the suite."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_access import Cluster, wait_until
from kubernetes import client

if TYPE_CHECKING:
    from conftest import Bioie, Recipes
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("suite")]

BM25 = {"k": 12, "keep": 10, "method": "bm25", "rerank": False}
QUICK = {"job": "prepare_corpora"}


def only_job(cluster: Cluster) -> str:
    (job,) = cluster.rayjobs()
    name: str = job["metadata"]["name"]
    return name


@pytest.fixture
def no_operator(cluster: Cluster) -> Iterator[str]:
    """The operator, scaled to zero."""
    apps = client.AppsV1Api(cluster.core.api_client)
    found = apps.list_deployment_for_all_namespaces(label_selector="app.kubernetes.io/name=kuberay").items
    found = found or apps.list_deployment_for_all_namespaces(label_selector="app.kubernetes.io/component=kuberay-operator").items
    (deployment,) = found
    where = (deployment.metadata.name, deployment.metadata.namespace)

    def scale(replicas: int) -> None:
        apps.patch_namespaced_deployment_scale(*where, {"spec": {"replicas": replicas}})
        wait_until(
            "the operator to come or go", lambda: (apps.read_namespaced_deployment(*where).status.ready_replicas or 0) == replicas, 120
        )

    scale(0)
    yield deployment.metadata.name
    scale(1)


def test_an_operator_that_does_not_run_is_said(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, no_operator: str
) -> None:
    recipe = recipes("no-operator", pod_store, **QUICK)
    done = bioie("submit", str(recipe), "--to", "kube", "--follow", "--patience", "5", timeout_s=200)
    said = done.stdout + done.stderr
    name = only_job(cluster)
    try:
        assert done.returncode == 1, said
        assert f"the KubeRay operator ({no_operator}" in said
        assert f"scale deployment {no_operator} --replicas=1" in said
        assert cluster.pods() == []
    finally:  # nobody looked at it, so nothing holds it
        cluster.delete_job(name)


@pytest.fixture
def queue(cluster: Cluster) -> Iterator[str]:
    """A Kueue queue in which one small job has room."""
    found = client.ApiextensionsV1Api(cluster.core.api_client)
    try:
        found.read_custom_resource_definition("clusterqueues.kueue.x-k8s.io")
    except client.ApiException:
        pytest.skip("the cluster has no Kueue")
    name = f"bioie-test-{secrets.token_hex(3)}"
    quota = {"cpu": "2", "memory": "9Gi", "ephemeral-storage": "20Gi"}
    resources = [{"name": key, "nominalQuota": value} for key, value in quota.items()]
    mine = {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}}
    group = {"coveredResources": list(quota), "flavors": [{"name": name, "resources": resources}]}
    kueue = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
    objects: list[dict[str, Any]] = [
        {**kueue, "kind": "ResourceFlavor", "metadata": {"name": name}, "spec": {}},
        {**kueue, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": {"namespaceSelector": mine, "resourceGroups": [group]}},
        {**kueue, "kind": "LocalQueue", "metadata": {"name": "small", "namespace": cluster.namespace}, "spec": {"clusterQueue": name}},
    ]
    text = yaml.safe_dump_all(objects)
    cluster.kubectl("apply", "-f", "-", text=text)
    yield "small"
    cluster.kubectl("delete", "--wait=false", "-f", "-", text=text)


def test_kueue_lets_the_second_job_wait_until_the_first_is_done(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, queue: str
) -> None:
    queued = {"profile": "queued", "queue": queue, "keep_after_finish_s": 0}
    names = []
    for recipe in (recipes("first-in-line", pod_store, queued, select=BM25), recipes("second-in-line", pod_store, queued, select=BM25)):
        done = bioie("submit", str(recipe), "--to", "kube")
        assert done.returncode == 0, done.stdout + done.stderr
        names.append(next(job["metadata"]["name"] for job in cluster.rayjobs() if job["metadata"]["name"].startswith(recipe.stem)))
    first, second = names
    with cluster.job(first), cluster.job(second):
        wait_until("the first job's head", lambda: cluster.job_pods(first, "head"), 240)
        job = cluster.ray("rayjobs", second)
        assert job is not None
        assert job["spec"]["suspend"] is True
        assert cluster.job_cluster(second) == ""
        said = bioie("status", second, "--namespace", cluster.namespace)
        assert queue in said.stdout + said.stderr
        cluster.wait_for_job(first, 500)
        cluster.wait_for_job(second, 500)
    assert pod_store.record("selections/second-in-line@1")["exit"] == 0
