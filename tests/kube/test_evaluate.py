"""A RayJob that asks, reviews and scores with the image's own language models: what lies in S3 is what one process here makes."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Bioie, Local, Recipes
    from kube_access import Cluster
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1_800), pytest.mark.usefixtures("suite")]

# Three short answers, all of them converted: what is tested is where the models run, not what they say.
ASKING: dict[str, Any] = {
    "job": "evaluate",
    "select": {"method": "bm25", "k": 12, "keep": 10, "rerank": False},
    "prompt": {"num_examples": 1, "max_documents": 3},
    "generate": {"model": "offline:smollm2-135m-instruct", "max_new_tokens": 24, "batch_size": 4},
    "dmcr": {
        "evaluators": [
            {"model": "offline:smollm2-135m-instruct", "batch_size": 4},
            {"model": "offline:gemma3-270m", "batch_size": 1},
        ],
        "max_new_tokens": 16,
    },
    "evaluate": {"bootstrap_samples": 100},
}
KINDS = ("prompts", "generations", "conversions-a", "conversions-b", "dmcr", "scores")
# Of the larger evaluator's weights there are two copies while they are loaded.
WORKER_GIB = 5


def with_roomy_worker(pods: dict[str, Any]) -> dict[str, Any]:
    workers = copy.deepcopy(pods["workers"])
    workers["cpu"]["memory_gib"] = WORKER_GIB
    return {"workers": workers}


def test_an_applied_evaluation_equals_a_local_run(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pods: dict[str, Any], pod_store: PodStore, local: Local, image: str
) -> None:
    recipe = recipes("evaluated", pod_store, with_roomy_worker(pods), **ASKING, cluster={"memory_per_worker_gib": 3.5})
    rendered = bioie("render", str(recipe))
    assert rendered.returncode == 0, rendered.stderr
    name = yaml.safe_load(rendered.stdout)["metadata"]["name"]
    with cluster.job(name):
        cluster.kubectl("apply", "-f", "-", text=rendered.stdout)
        cluster.wait_for_job(name, 1_200)

    here = local(recipe)
    answers = record_of(here, "generations/evaluated@1")["counts"]["answers"]
    assert answers == 3
    assert record_of(here, "conversions-b/evaluated@1")["counts"]["conversions"] > 0, "no answer was malformed: nobody was asked to convert"
    for output in (f"{kind}/evaluated@1" for kind in KINDS):
        record = pod_store.record(output)
        assert record["image"].startswith(image)
        assert record["exit"] == 0
        assert record["fingerprint"] == record_of(here, output)["fingerprint"], output  # the image's models are those of the packages
        assert record["counts"].get("answers", answers) == answers
        assert [key for key in pod_store.keys(output) if "/_parts/" in key] == []
        if cluster.is_this_machine():  # another CPU may move the last bits of a logit, and with them an answer
            assert pod_store.differing(here, output) == []
    scores = pod_store.record("scores/evaluated@1")
    assert set(scores["summary"]["variants"]) == {"raw", "cleaned", "corrected"}
    if cluster.is_this_machine():
        assert scores["summary"] == record_of(here, "scores/evaluated@1")["summary"]
    log = pod_store.read(f"_logs/{name}/driver.log").decode()
    assert f"{pod_store.url}/scores/evaluated@1" in log


def record_of(store: Path, output: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store / output / "record.json").read_text())
    return found
