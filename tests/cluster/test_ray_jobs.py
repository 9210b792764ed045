"""What goes to a standing cluster's job server, without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bioie_ray.cluster.api import ClusterError
from bioie_ray.cluster.ray_api import given_address, secret_name
from bioie_ray.cluster.ray_jobs import actors_at_full_size, entrypoint, ray_recipe_text
from bioie_ray.config.recipe import Recipe, load_recipe

SPEC = {
    "workerGroupSpecs": [
        {"groupName": "cpu", "maxReplicas": 3, "rayStartParams": {"num-cpus": "4"}},
        {"groupName": "gpu", "maxReplicas": 2, "rayStartParams": {"num-cpus": "2", "num-gpus": "1"}},
    ]
}


def recipe(**cluster: object) -> Recipe:
    return Recipe.model_validate({"name": "demo", "job": "embed", "store": "s3://bucket/x", "cluster": cluster})


def test_a_recipe_asks_for_the_actors_of_the_cluster_at_its_largest() -> None:
    # an actor of one thread asks for 0.9 CPUs: four fit 4 CPUs, two fit 2
    assert actors_at_full_size(recipe(), SPEC) == 3 * 4 + 2 * 2
    assert actors_at_full_size(recipe(gpus_per_worker=0.5), SPEC) == 3 * 4  # to prepare, without GPUs; to embed there is room for 2 * 2
    assert actors_at_full_size(recipe(gpus_per_worker=0.5), {"workerGroupSpecs": SPEC["workerGroupSpecs"][1:]}) == 2 * 2
    assert actors_at_full_size(recipe(), {"workerGroupSpecs": []}) == 1


def test_the_text_that_travels_is_the_recipe_and_leaves_unnamed_places_to_the_pods(tmp_path: Path) -> None:
    text = ray_recipe_text(recipe(), SPEC)
    (tmp_path / "recipe.yaml").write_text(text)
    arrived = load_recipe(tmp_path / "recipe.yaml")
    assert arrived.cluster.num_workers == 16
    assert arrived.model_copy(update={"cluster": recipe().cluster}) == recipe()
    assert "endpoint" not in yaml.safe_load(text)["storage"]
    unnamed = Recipe.model_validate({"name": "demo", "job": "embed"})
    assert "store" not in yaml.safe_load(ray_recipe_text(unnamed, None))
    assert yaml.safe_load(ray_recipe_text(recipe(num_workers=2), SPEC))["cluster"]["num_workers"] == 2


def test_the_entrypoint_is_the_job_of_the_image() -> None:
    assert entrypoint(recipe()) == "python /opt/bioie/jobs/embed.py --recipe recipe.yaml"


def test_the_token_lies_where_the_operator_puts_it() -> None:
    assert secret_name("bioie") == "bioie"
    assert secret_name("a" * 10 + "5" + "b" * 49) == "r" + "b" * 49
    assert len(secret_name("c" * 63)) == 50


def test_an_address_is_the_dashboards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert given_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # of the GCS: for `bioie run`, not for jobs
    assert given_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert given_address(None) == "http://head:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://ray.example")
    assert given_address(None) == "https://ray.example"
    with pytest.raises(ClusterError, match="is not the address of a Ray job server"):
        given_address("ray://head:10001")
