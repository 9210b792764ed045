"""``bioie submit`` and ``bioie cancel`` with a RayJob."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from kube_access import wait_until

if TYPE_CHECKING:
    from conftest import Bioie, Local, Recipes
    from kube_access import Cluster
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

BM25 = {"k": 12, "keep": 10, "method": "bm25", "rerank": False}


def test_submitting_twice_is_one_job_and_following_it_ends_well(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, local: Local
) -> None:
    recipe = recipes("submitted", pod_store, select=BM25)
    with ThreadPoolExecutor(2) as people:  # at the same moment
        both = list(people.map(lambda _: bioie("submit", str(recipe), "--to", "kube"), range(2)))
    (job,) = cluster.rayjobs()
    name = job["metadata"]["name"]
    with cluster.job(name):
        assert [one.returncode for one in both] == [0, 0], [one.stderr for one in both]
        said = sorted("created the RayJob" in one.stdout + one.stderr for one in both)
        assert said == [False, True]
        second = bioie("submit", str(recipe), "--to", "kube", "--follow")
        said = second.stdout + second.stderr
        assert second.returncode == 0, said
        assert "is there already" in said
        jobs = [job["metadata"] for job in cluster.rayjobs()]
        assert [(one["name"], one["uid"]) for one in jobs] == [(name, job["metadata"]["uid"])]
        selection = "selections/submitted@1"
        assert f"{pod_store.url}/{selection}" in said  # the driver's own words
        assert pod_store.differing(local(recipe), selection) == []
        third = bioie("submit", str(recipe), "--to", "kube", "--follow")
        assert third.returncode == 0, third.stdout + third.stderr
        assert "has succeeded already" in third.stdout + third.stderr


def test_cancel_leaves_no_pod(cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore) -> None:
    recipe = recipes("cancelled", pod_store)
    submitted = bioie("submit", str(recipe), "--to", "kube")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    (name,) = [job["metadata"]["name"] for job in cluster.rayjobs()]
    with cluster.job(name):
        wait_until("the job's head", lambda: cluster.job_pods(name, "head"), 120)
        done = bioie("cancel", name, "--namespace", cluster.namespace)
        assert done.returncode == 0, done.stdout + done.stderr
        assert cluster.pods() == []
        assert cluster.rayjobs() == []
        gone = bioie("cancel", name, "--namespace", cluster.namespace)
        assert gone.returncode == 1
        assert f"no RayJob {name}" in gone.stderr


def test_a_missing_secret_and_too_many_gpus_are_said_with_the_next_step(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, pods: dict[str, Any]
) -> None:
    greedy = {"gpu": {**pods["workers"]["cpu"], "memory_gib": 5, "gpus": 4, "min_replicas": 1, "max_replicas": 1}}
    recipe = recipes("short", pod_store, {"storage_secret": "absent", "workers": greedy}, job="embed", cluster={"gpus_per_worker": 1})
    begun = time.monotonic()
    done = bioie("submit", str(recipe), "--to", "kube", "--follow", "--patience", "15")
    took_s = time.monotonic() - begun
    (name,) = [job["metadata"]["name"] for job in cluster.rayjobs()]
    with cluster.job(name):
        assert done.returncode == 1, done.stdout + done.stderr
        sentences = [line for line in done.stderr.splitlines() if line.startswith("! ")]
        (about_secret,) = [line for line in sentences if "absent" in line]
        assert f"kubectl -n {cluster.namespace} create secret generic absent" in about_secret
        (about_gpus,) = [line for line in sentences if "nvidia.com/gpu" in line]
        assert "needs 4 nvidia.com/gpu" in about_gpus
        assert all(". Next: " in line for line in (about_secret, about_gpus))
        assert took_s < 120, "a hang would be as bad as silence"
