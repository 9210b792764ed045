"""The standing cluster: jobs through Ray's job server, a lost worker, and GPU pods that come because a job asks for them."""

from __future__ import annotations

import base64
import copy
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from interruptions import MANY_SHARDS, VECTORS, assert_whole, finished, wait_for_some
from kube_access import CLUSTER_LABEL, ROLE_LABEL, Cluster, wait_until
from kubernetes.client.exceptions import ApiException
from pod_store import PodStore

if TYPE_CHECKING:
    from conftest import Bioie, Local, Recipes

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

NAME = "bioie"  # what `bioie submit --to ray` looks for


def groups(pods: dict[str, Any]) -> dict[str, Any]:
    """A CPU pod that is always there, so that tests do not wait for it, and a GPU pod that is not."""
    small = pods["workers"]["cpu"]
    return {"cpu": {**small, "min_replicas": 1, "max_replicas": 1}, "gpu": {**small, "gpus": 1, "min_replicas": 0, "max_replicas": 1}}


@pytest.fixture(scope="module")
def standing(cluster: Cluster, image: str, bioie: Bioie, pods: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running RayCluster, of this module alone: it would take the machine from the tests that follow."""
    recipe = tmp_path_factory.mktemp("standing") / "standing.yaml"
    kube = {"namespace": cluster.namespace, "image": image, "idle_timeout_s": 20, **copy.deepcopy(pods), "workers": groups(pods)}
    recipe.write_text(yaml.safe_dump({"name": "standing", "job": "embed", "cluster": {"kube": kube}}))
    rendered = bioie("render", str(recipe), "--kind", "raycluster")
    assert rendered.returncode == 0, rendered.stderr
    cluster.kubectl("apply", "-f", "-", text=rendered.stdout)
    wait_until("the standing cluster's head and its CPU worker", lambda: len(workers(cluster)) == 1 and head(cluster), 240)
    yield NAME
    cluster.kubectl("delete", "raycluster", NAME, "--wait=false")
    wait_until("the standing cluster to go", lambda: not cluster.pods(f"{CLUSTER_LABEL}={NAME}"), 120)


def head(cluster: Cluster) -> list[Any]:
    return cluster.running(f"{CLUSTER_LABEL}={NAME},{ROLE_LABEL}=head")


def workers(cluster: Cluster, group: str = "cpu") -> list[Any]:
    return cluster.running(f"{CLUSTER_LABEL}={NAME},ray.io/group={group}")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def dashboard(cluster: Cluster) -> Iterator[dict[str, str]]:
    """The environment with which ``ray job`` reaches the standing cluster, through kubectl as the README says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = cluster.core.read_namespaced_secret(NAME, cluster.namespace).data["auth_token"]
    command = [cluster.kubectl_path, "-n", cluster.namespace, "port-forward", f"service/{NAME}-head-svc", f"{port}:8265"]
    forward = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until("the port-forward", lambda: answers(port), 30)
        yield {
            **os.environ,
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": base64.b64decode(token).decode(),
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        forward.terminate()
        forward.wait()


def test_submit_to_ray_follows_to_the_bytes_of_a_local_run(
    standing: str, recipes: Recipes, pod_store: PodStore, bioie: Bioie, local: Local
) -> None:
    recipe = recipes("standing-bm25", pod_store, select={"k": 12, "keep": 10, "method": "bm25", "rerank": False})
    done = bioie("submit", str(recipe), "--to", "ray", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    selection = "selections/standing-bm25@1"
    assert f"{pod_store.url}/{selection}" in done.stdout + done.stderr
    assert pod_store.differing(local(recipe), selection) == []
    again = bioie("submit", str(recipe), "--to", "ray", "--follow")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "succeeded already" in again.stdout + again.stderr


def test_a_lost_worker_costs_only_the_shards_in_flight(
    cluster: Cluster, standing: str, recipes: Recipes, pod_store: PodStore, local: Local, tmp_path: Path
) -> None:
    """Started by ``ray job submit``, as people do who have Ray and nothing of ours."""
    recipe = recipes("interrupted", pod_store, **MANY_SHARDS)
    folder = tmp_path / "submitted"  # one file: a checkout as the working directory would shadow the package in the image
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.read_text())
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", str(folder), "--"]
    command += ["python", "/opt/bioie/jobs/embed.py", "--recipe", "recipe.yaml"]
    with dashboard(cluster) as environment, (tmp_path / "log").open("w+") as log:
        running = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for_some(pod_store, lambda: running.poll() is not None)
            (victim,) = workers(cluster)
            before = finished(pod_store)
            cluster.kill(victim.metadata.name)
            assert running.wait(timeout=400) == 0, (tmp_path / "log").read_text()
        finally:
            running.kill()
            running.wait()
    assert [pod.metadata.name for pod in workers(cluster)] != [victim.metadata.name]
    assert_whole(cluster, pod_store, local(recipe), before)


@pytest.fixture(scope="module")
def gpu_node(cluster: Cluster) -> Iterator[str]:
    """A node with GPUs, or one that says it has some: scheduler, operator and autoscaler go by what it says."""
    with_gpus = [
        node.metadata.name for node in cluster.core.list_node().items if int((node.status.allocatable or {}).get("nvidia.com/gpu", 0))
    ]
    if with_gpus:
        yield with_gpus[0]
        return
    if os.environ.get("BIOIE_TEST_FAKE_GPUS") != "1":
        pytest.skip("no node has nvidia.com/gpu; BIOIE_TEST_FAKE_GPUS=1 lets a node of a test cluster say it has")
    name = cluster.core.list_node().items[0].metadata.name
    claim = {"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "4"}
    try:
        cluster.core.patch_node_status(name, [claim])
    except ApiException as error:
        pytest.skip(f"no node has nvidia.com/gpu, and {name} may not be told to say so: {error.reason}")
    wait_until("the node to offer its GPUs", lambda: cluster.core.read_node(name).status.allocatable.get("nvidia.com/gpu") == "4", 60)
    yield name
    cluster.core.patch_node_status(name, [{**claim, "value": "0"}])


def test_gpu_pods_come_because_an_embed_job_asks_and_go_again(
    cluster: Cluster, standing: str, gpu_node: str, recipes: Recipes, pod_store: PodStore, bioie: Bioie, pods: dict[str, Any]
) -> None:
    assert workers(cluster, "gpu") == []
    recipe = recipes("on-gpus", pod_store, {"workers": groups(pods)}, job="embed", cluster={"gpus_per_worker": 1})
    done = bioie("submit", str(recipe), "--to", "ray", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    (pod,) = cluster.pods(f"{CLUSTER_LABEL}={NAME},ray.io/group=gpu")
    assert pod.spec.node_name == gpu_node
    assert pod.spec.containers[0].resources.limits["nvidia.com/gpu"] == "1"
    assert pod_store.record(VECTORS[-1])["usage"]["groups"]["gpu"]["gpu_seconds"] > 0
    wait_until("the GPU pod to go after its idle time", lambda: not cluster.pods(f"{CLUSTER_LABEL}={NAME},ray.io/group=gpu"), 150)
    assert cluster.ray("rayclusters", NAME) is not None
