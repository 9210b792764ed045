"""The head's pod is deleted while a RayJob runs: the driver dies with it, and the job goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Bioie, Local, Recipes
    from kube_access import Cluster
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

VECTORS = "vectors/embedded_biorelex-all-minilm-l6-v2@1"


def test_a_lost_head_costs_only_the_shards_in_flight(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, local: Local
) -> None:
    recipe = recipes("head-lost", pod_store, job="embed", prepare={"documents_per_shard": 1}, embed={"max_seq_length": 256})
    rendered = bioie("render", str(recipe))
    assert rendered.returncode == 0, rendered.stderr
    name = yaml.safe_load(rendered.stdout)["metadata"]["name"]
    with cluster.job(name):
        cluster.kubectl("apply", "-f", "-", text=rendered.stdout)
        pod_store.wait_for_markers(VECTORS, 3, lambda: cluster.job_state(name) in {"Complete", "Failed"}, timeout_s=400)
        (head,) = cluster.job_pods(name, "head")
        before = pod_store.finished_shards(VECTORS)
        cluster.kill(head.metadata.name)
        cluster.wait_for_job(name, 600)
    after = pod_store.metas(VECTORS)
    assert {key: after[key] for key in before} == before
    record = pod_store.record(VECTORS)
    num_kept = len([key for key in before if "/_markers/" in key])
    assert record["timings"]["shards_kept"] >= num_kept >= 3
    assert record["timings"]["shards_made"] > 0
    assert pod_store.differing(local(recipe), "corpora/embedded_biorelex@1") == []
    if cluster.is_this_machine():  # another CPU may move the last bits of a vector
        assert pod_store.differing(local(recipe), VECTORS) == []
    texts = [pod_store.read(key).decode() for key in pod_store.keys(f"_logs/{name}")]
    assert len(texts) == 2, "each attempt keeps its log"
