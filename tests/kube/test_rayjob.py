"""A RayJob by ``kubectl apply`` of what ``bioie render`` prints, in a namespace that enforces `restricted`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Bioie, Local, Recipes
    from kube_access import Cluster
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

# A cross-encoder that takes seconds to train: this is about where it runs, not about how well it ranks.
RERANKED = {
    "select": {"k": 12, "keep": 10},
    "rerank": {"max_length": 64},
    "train_reranker": {"max_length": 48, "batch_size": 8, "pairs_per_query": 2, "candidates_per_query": 4, "threads": 1},
}


def test_an_applied_selection_equals_a_local_run(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pod_store: PodStore, local: Local, image: str
) -> None:
    recipe = recipes("applied", pod_store, **RERANKED)
    rendered = bioie("render", str(recipe))
    assert rendered.returncode == 0, rendered.stderr
    name = yaml.safe_load(rendered.stdout)["metadata"]["name"]
    with cluster.job(name):
        cluster.kubectl("apply", "-f", "-", text=rendered.stdout)
        cluster.wait_for_job(name, 600)
        driver = cluster.kubectl("logs", "-l", f"job-name={name}", "--tail=-1", check=False)

    namespace = cluster.core.read_namespace(cluster.namespace)
    assert namespace.metadata.labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert cluster.roles_seen >= {"head", "worker", "submitter"}
    refused = [
        event.message for event in cluster.core.list_namespaced_event(cluster.namespace).items if "PodSecurity" in (event.message or "")
    ]
    assert refused == []

    here = local(recipe)
    selection = "selections/applied@1"
    assert json.loads(pod_store.read(f"{selection}/best_examples.json")) == json.loads(
        (here / selection / "best_examples.json").read_text()
    )
    assert pod_store.far_apart(here, selection, within=1e-5) == []
    if cluster.is_this_machine():  # another CPU may move the last bits of a score
        assert pod_store.differing(here, selection) == []
        assert pod_store.differing(here, "rerankers/biorelex@1") == []

    record = pod_store.record(selection)
    assert record["image"].startswith(image)
    assert record["exit"] == 0
    assert record["usage"]["groups"].keys() >= {"cpu"}
    log = pod_store.read(f"_logs/{name}/driver.log").decode()
    assert f"{pod_store.url}/{selection}" in log
    secret = pod_store.server.environment["AWS_SECRET_ACCESS_KEY"]
    for text in (rendered.stdout, driver, log, json.dumps(record)):
        assert secret not in text


def test_the_api_server_takes_every_checked_in_manifest(cluster: Cluster, repository: Path) -> None:
    folder = repository / "k8s"
    manifests = [*sorted((folder / "rayjobs").glob("*.yaml")), folder / "raycluster.yaml", folder / "raycronjob.yaml"]
    assert len(manifests) >= 6
    objects = [one for path in manifests for one in yaml.safe_load_all(path.read_text()) if one]
    for one in objects:
        one["metadata"]["namespace"] = cluster.namespace
    said = cluster.kubectl("apply", "--dry-run=server", "-f", "-", text=yaml.safe_dump_all(objects))
    assert said.count("(server dry run)") == len(objects)
