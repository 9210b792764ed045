"""Training in two pods: a rank each, checkpoints in S3, a worker pod deleted half-way, and the whole of DFPO as one RayJob."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_access import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Bioie, Recipes
    from kube_access import Cluster
    from pod_store import PodStore

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(2_400)]

MODEL = "offline:smollm2-135m-instruct"
# Few and short steps: what is tested is where they run, and what a lost pod costs.
STAGE = {"max_length": 256, "batch_size": 4, "micro_batch_size": 1, "learning_rate": 5e-4, "lora": {"r": 4, "alpha": 8, "dropout": 0.1}}
TRAINING: dict[str, Any] = {
    "task": "biorelex",
    "instructions": {"sources": [{"kind": "tasks", "tasks": ["biorelex"]}]},
    "train": {"base_model": MODEL, "threads": 1, "checkpoint_every_steps": 2},
    "preft": {**STAGE, "epochs": 10, "max_steps": 10},
    "preferences": {"samples": 1, "max_new_tokens": 16, "max_documents": 6},
    "dpop": {**STAGE, "epochs": 1, "batch_size": 2, "max_steps": 2},
    "postft": {**STAGE, "max_steps": 2},
}
RANK_GIB = 5.5


def two_pods(pods: dict[str, Any]) -> dict[str, Any]:
    workers = copy.deepcopy(pods["workers"])
    workers["cpu"] |= {"memory_gib": RANK_GIB, "ray_cpus": 1, "min_replicas": 2, "max_replicas": 2}
    return {"workers": workers}


def start(cluster: Cluster, bioie: Bioie, recipe: Path) -> tuple[str, str]:
    rendered = bioie("render", str(recipe))
    assert rendered.returncode == 0, rendered.stderr
    return yaml.safe_load(rendered.stdout)["metadata"]["name"], rendered.stdout


def steps_done(store: PodStore, output: str) -> list[int]:
    """The steps of whole checkpoints: those with the lists of both ranks."""
    names = [key for key in store.keys(f"{output}/_checkpoints") if "_rank-" in key]
    steps = [int(name.partition("/step-")[2][:8]) for name in names]
    return sorted({step for step in steps if steps.count(step) == 2})


def weights_named(store: PodStore, output: str) -> set[str]:
    """The files of the merged weights, as the index among them names them; in float32 the model is larger than one shard."""
    index = json.loads(store.read(f"{output}/model/model.safetensors.index.json"))
    return {f"model/{name}" for name in index["weight_map"].values()}


def test_a_training_outlives_the_pod_of_a_rank(
    cluster: Cluster, bioie: Bioie, recipes: Recipes, pods: dict[str, Any], pod_store: PodStore, image: str
) -> None:
    settings = {"ranks": 2, "memory_per_worker_gib": 3.5}
    recipe = recipes("tuned", pod_store, two_pods(pods), job="train_preft", **TRAINING, cluster=settings)
    name, manifest = start(cluster, bioie, recipe)
    output = "models-preft/tuned@1"
    with cluster.job(name):
        cluster.kubectl("apply", "-f", "-", text=manifest)
        wait_until("a whole checkpoint", lambda: steps_done(pod_store, output) or cluster.job_state(name) in {"Complete", "Failed"}, 900)
        reached = steps_done(pod_store, output)
        assert reached, "the training was over, or failed, before a checkpoint was seen"
        victim = cluster.job_pods(name, "worker")[0].metadata.name
        cluster.kill(victim)
        cluster.wait_for_job(name, 1_200)
    record = pod_store.record(output)
    assert record["image"].startswith(image)
    assert record["ranks"] == 2
    assert record["steps"] == 10
    assert [key for key in pod_store.keys(output) if "/_checkpoints/" in key] == []
    metrics = [json.loads(line) for line in pod_store.read(f"{output}/metrics.jsonl").decode().splitlines()]
    assert [entry["step"] for entry in metrics] == list(range(1, 11)), "each step once, those before the loss too"
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert record["merged"]["largest_difference"] <= record["merged"]["tolerance"]
    files = {file["file"] for file in record["files"]}
    assert files >= {"adapter/adapter_model.safetensors", "model/README.md"}
    assert weights_named(pod_store, output) <= files, "every shard of the merged weights is in the record"


@pytest.mark.usefixtures("suite")
def test_all_of_dfpo_is_one_job(cluster: Cluster, bioie: Bioie, recipes: Recipes, pods: dict[str, Any], pod_store: PodStore) -> None:
    asking = {
        "job": "evaluate",
        "prompt": {"num_examples": 0, "max_documents": 2},
        "generate": {"max_new_tokens": 16, "batch_size": 2},
        "dmcr": {"evaluators": []},
        "evaluate": {"bootstrap_samples": 100},
        "matrix": {
            "generate": [
                {"label": "base", "model": MODEL},
                {"label": "dpop", "model": "stage:dpop"},
                {"label": "postft", "model": "stage:postft"},
            ]
        },
    }
    small = {**TRAINING, "preft": {**TRAINING["preft"], "max_steps": 2}, "train": {**TRAINING["train"], "zero_stage": 2}}
    recipe = recipes("dfpo", pod_store, two_pods(pods), **small, **asking, cluster={"ranks": 2, "memory_per_worker_gib": 3.5})
    name, manifest = start(cluster, bioie, recipe)
    with cluster.job(name):
        cluster.kubectl("apply", "-f", "-", text=manifest)
        cluster.wait_for_job(name, 2_200)
    for stage in ("preft", "dpop", "postft"):
        assert pod_store.record(f"models-{stage}/dfpo@1")["steps"] == 2
    assert pod_store.record("preferences/dfpo@1")["totals"]["pairs"] == 6
    for label in ("base", "dpop", "postft"):
        assert pod_store.record(f"scores/dfpo-{label}@1")["exit"] == 0
