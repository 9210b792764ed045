"""The head's pod is deleted while a RayJob runs: the driver dies with it, and the job goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from interruptions import MANY_SHARDS, VECTORS, assert_whole, finished, wait_for_some

if TYPE_CHECKING:
    from conftest import Bioie, Local, Recipes
    from kube_access import Cluster
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_lost_head_costs_only_the_shards_in_flight(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, local: Local
) -> None:
    recipe = recipes("interrupted", pod_store, **MANY_SHARDS)
    rendered = bioie("render", str(recipe))
    assert rendered.returncode == 0, rendered.stderr
    name = yaml.safe_load(rendered.stdout)["metadata"]["name"]
    with cluster.job(name):
        cluster.kubectl("apply", "-f", "-", text=rendered.stdout)
        wait_for_some(pod_store, lambda: cluster.job_state(name) in {"Complete", "Failed"})
        (head,) = cluster.job_pods(name, "head")
        before = finished(pod_store)
        cluster.kill(head.metadata.name)
        cluster.wait_for_job(name, 600)
    assert_whole(cluster, pod_store, local(recipe), before)
    timings = pod_store.record(VECTORS[0])["timings"]
    assert timings["shards_kept"] >= len([key for key in before if key.startswith(f"{VECTORS[0]}/_markers/")])
    texts = [pod_store.read(key).decode() for key in pod_store.keys(f"_logs/{name}")]
    assert len(texts) == 2, "each attempt keeps its log"
