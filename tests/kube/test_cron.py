"""The RayCronJob (alpha in KubeRay 1.6). Only in the suite: it waits for the clock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from kube_access import wait_until
from kubernetes import client

if TYPE_CHECKING:
    from conftest import Bioie, Recipes
    from kube_access import Cluster
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("suite")]


def test_the_cron_job_fires_and_two_runs_of_one_tick_make_one_output(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore
) -> None:
    try:
        client.ApiextensionsV1Api(cluster.core.api_client).read_custom_resource_definition("raycronjobs.ray.io")
    except client.ApiException:
        pytest.skip("the cluster's KubeRay has no RayCronJob")
    recipe = recipes("nightly", pod_store, job="prepare_corpora")
    rendered = bioie("render", str(recipe), "--kind", "raycronjob", "--schedule", "* * * * *")
    assert rendered.returncode == 0, rendered.stderr
    name = yaml.safe_load(rendered.stdout)["metadata"]["name"]
    cluster.kubectl("apply", "-f", "-", text=rendered.stdout)
    try:
        wait_until("a tick", cluster.rayjobs, 150)
        cluster.kubectl("patch", "raycronjob", name, "--type=merge", "-p", json.dumps({"spec": {"suspend": True}}))
        started = [job["metadata"]["name"] for job in cluster.rayjobs()]
        for job in started:
            cluster.wait_for_job(job, 600)
    finally:
        for job in [job["metadata"]["name"] for job in cluster.rayjobs()]:
            cluster.delete_job(job)
        cluster.kubectl("delete", "raycronjob", name)
    (record,) = [key for key in pod_store.keys("corpora") if key.endswith("record.json")]
    found = pod_store.record(record.removesuffix("/record.json"))
    assert found["exit"] == 0
    assert found["counts"]["documents"] > 0
