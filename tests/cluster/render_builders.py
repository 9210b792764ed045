"""Recipes to render, and walks over what came out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bioie_ray.config.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "jobs" / "recipes" / "select_demo.yaml"
IMAGE = "registry.example/bioie-ray:9.9.9-cpu"
Json = dict[str, Any]
QUEUED = ["cluster.kube.profile=queued", "cluster.kube.queue=bioie"]
GPU = [
    "cluster.gpus_per_worker=1",
    (
        "cluster.kube.workers={gpu: {gpus: 2, cpus: 8, memory_gib: 32, max_replicas: 3, node_selector: {accelerator: l4}, "
        "tolerations: [{key: spot, operator: Exists}]}}"
    ),
]


def demo(*overrides: str) -> Recipe:
    return load_recipe(DEMO, overrides)


def manifests() -> list[Path]:
    return [*sorted((ROOT / "k8s" / "rayjobs").glob("*.yaml")), ROOT / "k8s" / "raycluster.yaml", ROOT / "k8s" / "raycronjob.yaml"]


def load(path: Path) -> Json:
    manifest: Json = yaml.safe_load(path.read_text())
    return manifest


def job_spec(manifest: Json) -> Json:
    spec: Json = manifest["spec"]
    return spec["jobTemplate"] if manifest["kind"] == "RayCronJob" else spec


def cluster_spec(manifest: Json) -> Json:
    spec = job_spec(manifest)
    return spec if manifest["kind"] == "RayCluster" else spec["rayClusterSpec"]


def templates(manifest: Json) -> dict[str, Json]:
    """Pod templates by what they are for."""
    cluster = cluster_spec(manifest)
    found = {"head": cluster["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    if manifest["kind"] != "RayCluster":
        found["submitter"] = job_spec(manifest)["submitterPodTemplate"]
    return found


def containers(manifest: Json) -> Iterator[tuple[str, Json]]:
    """Every container that will run, the operator's own among them as far as we describe it."""
    for name, template in templates(manifest).items():
        for container in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"]):
            yield f"{name}/{container['name']}", container
    options = cluster_spec(manifest).get("autoscalerOptions")
    if options is not None:
        yield "head/autoscaler", options


def variables(container: Json) -> dict[str, Json]:
    return {entry["name"]: entry for entry in container["env"]}
