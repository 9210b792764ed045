"""What a job survives when the cluster loses a node, or its store for half a minute. Only in the suite: others would notice."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from interruptions import MANY_SHARDS, assert_whole, finished, wait_for_some
from kube_access import Cluster, wait_until
from kubernetes import client

if TYPE_CHECKING:
    from conftest import Bioie, Local, Recipes
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1_800), pytest.mark.usefixtures("suite")]


def applied(cluster: Cluster, bioie: Bioie, recipe: Any) -> str:
    """The name of the recipe's RayJob, which runs now."""
    rendered = bioie("render", str(recipe))
    assert rendered.returncode == 0, rendered.stderr
    cluster.kubectl("apply", "-f", "-", text=rendered.stdout)
    name: str = yaml.safe_load(rendered.stdout)["metadata"]["name"]
    return name


@pytest.fixture
def second_node(cluster: Cluster, image: str) -> Iterator[str]:
    """A node that may be lost, with the image on it."""
    name, up, down = (os.environ.get(f"BIOIE_TEST_{what}", "") for what in ("SECOND_NODE", "NODE_UP", "NODE_DOWN"))
    if not (name and up and down):
        pytest.skip("BIOIE_TEST_SECOND_NODE, BIOIE_TEST_NODE_UP and BIOIE_TEST_NODE_DOWN do not say which node's power may be cut, and how")
    others = [node.metadata.name for node in cluster.core.list_node().items if node.metadata.name != name]
    subprocess.run(shlex.split(up), check=True, timeout=300)
    try:
        wait_until(f"{name} to be ready", lambda: is_ready(cluster, name), 120)
        pull(cluster, image, name)
        yield name
    finally:
        subprocess.run(shlex.split(down), check=False, timeout=120)
        for node in others:
            cordon(cluster, node, closed=False)
        for pod in cluster.pods():
            if pod.spec.node_name == name:
                cluster.kill(pod.metadata.name)
        with suppress(client.ApiException):  # the test may have done so
            cluster.core.delete_node(name)


def is_ready(cluster: Cluster, node: str) -> bool:
    try:
        conditions = cluster.core.read_node(node).status.conditions or []
    except client.ApiException:
        return False
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


def cordon(cluster: Cluster, node: str, *, closed: bool) -> None:
    cluster.core.patch_node(node, {"spec": {"unschedulable": closed}})


def pull(cluster: Cluster, image: str, node: str) -> None:
    """Get the image onto a node, so that the test's times are not those of a download."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "pull", "image": image, "command": ["true"], "securityContext": security}
    spec = {
        "nodeName": node,
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    cluster.kubectl(
        "apply", "-f", "-", text=yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pull-2"}, "spec": spec})
    )
    wait_until(f"{image} on {node}", lambda: cluster.core.read_namespaced_pod("pull-2", cluster.namespace).status.phase == "Succeeded", 900)
    cluster.kill("pull-2")


def test_a_power_cut_costs_only_the_shards_in_flight(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, local: Local, second_node: str
) -> None:
    recipe = recipes("interrupted", pod_store, **MANY_SHARDS)
    here = local(recipe)
    first = [node.metadata.name for node in cluster.core.list_node().items if node.metadata.name != second_node]
    cordon(cluster, second_node, closed=True)
    name = applied(cluster, bioie, recipe)
    with cluster.job(name):
        wait_until("the head on the first node", lambda: cluster.job_pods(name, "head"), 240)
        wait_until("the submitter", lambda: cluster.running(f"job-name={name}"), 120)
        cordon(cluster, second_node, closed=False)
        for node in first:  # the worker's only place is the node that will be lost
            cordon(cluster, node, closed=True)
        wait_for_some(pod_store, lambda: cluster.job_state(name) in {"Complete", "Failed"})
        assert [pod.spec.node_name for pod in cluster.job_pods(name, "worker")] == [second_node]
        before = finished(pod_store)
        subprocess.run(shlex.split(os.environ["BIOIE_TEST_NODE_DOWN"]), check=True, timeout=120)
        cut = time.monotonic()
        assert cluster.job_state(name) != "Complete", "the run was over before the power was cut"
        for node in first:
            cordon(cluster, node, closed=False)
        wait_until("the node to count as lost", lambda: not is_ready(cluster, second_node), 120)
        # What a cloud's controller does with a machine that is gone. Until then its pods stay as Terminating, and KubeRay 1.6 counts
        # them as there: no worker takes their place.
        cluster.core.delete_node(second_node)
        cluster.wait_for_job(name, 900)
        # 20 to 40 s until the node counts as lost, as long again until its pods are forgotten, and the new worker's start
        assert time.monotonic() - cut < 300
        job = cluster.ray("rayjobs", name)
        assert job is not None
        assert not job["status"].get("failed"), "a lost worker is no reason to start the whole job again"
    assert_whole(cluster, pod_store, here, before)


@pytest.fixture
def s3_switch(cluster: Cluster) -> Iterator[Any]:
    """Turns the S3 server of the namespace `testbed` off and on."""
    apps = client.AppsV1Api(cluster.core.api_client)
    try:
        apps.read_namespaced_deployment("s3", "testbed")
    except client.ApiException:
        pytest.skip("the S3 server is not a deployment `s3` in the namespace `testbed`, so it is not ours to stop")

    def switch(*, on: bool) -> None:
        apps.patch_namespaced_deployment_scale("s3", "testbed", {"spec": {"replicas": int(on)}})
        wanted = int(on)
        wait_until("S3 to come or go", lambda: (apps.read_namespaced_deployment("s3", "testbed").status.ready_replicas or 0) == wanted, 120)

    yield switch
    switch(on=True)


def test_half_a_minute_without_s3_costs_only_the_shards_in_flight(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, local: Local, s3_switch: Any
) -> None:
    recipe = recipes("interrupted", pod_store, **MANY_SHARDS)
    here = local(recipe)
    name = applied(cluster, bioie, recipe)
    with cluster.job(name):
        wait_for_some(pod_store, lambda: cluster.job_state(name) in {"Complete", "Failed"})
        before = finished(pod_store)
        s3_switch(on=False)
        time.sleep(30)
        assert cluster.job_state(name) != "Complete", "the run was over before S3 was gone"
        s3_switch(on=True)
        cluster.wait_for_job(name, 900)
    assert_whole(cluster, pod_store, here, before)
