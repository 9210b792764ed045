"""The client's commands where there is no cluster, and the errors of one that refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_api_server import Reply, fake_api_server

from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.cluster import local_checks
from bioie_ray.cluster.api import ApiError, UnreachableError
from bioie_ray.cluster.checks import Check
from bioie_ray.cluster.site_store import store_of_recipe, within
from bioie_ray.config.cluster import KubeSettings
from bioie_ray.config.recipe import Recipe

RECIPE = "name: lonely\njob: prepare_corpora\nstore: s3://bucket/prefix\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "lonely.yaml"
    path.write_text(RECIPE)
    return path


def bioie(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("KUBE", "AWS_", "BIOIE_"))}
    command = [sys.executable, "-m", "bioie_ray.cli", *arguments]
    return subprocess.run(
        command, env={**settings, "KUBECONFIG": "/nonexistent", **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def test_doctor_says_in_one_red_line_that_there_is_no_cluster_and_looks_at_the_rest(recipe: Path) -> None:
    begun = time.monotonic()
    done = bioie("doctor", str(recipe), "--json", BIOIE_IMAGE="localhost:9/bioie-ray:x")
    assert time.monotonic() - begun < 30  # ten on a machine that is not busy
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is False
    (red,) = [check for check in found["checks"] if check["state"] == "failed"]
    assert red["name"] == "cluster"
    assert "KUBECONFIG" in red["found"]
    assert red["fix"]
    assert {"client", "image", "storage", "model"} <= {check["name"] for check in found["checks"]}


def test_a_dry_run_prints_the_manifest_and_says_that_no_server_was_asked(recipe: Path) -> None:
    done = bioie("submit", str(recipe), "--dry-run", "--no-image-check")
    assert done.returncode == 0, done.stderr
    assert "kind: RayJob" in done.stdout
    assert "not tried on a server: no Kubernetes to talk to" in done.stderr


@pytest.mark.parametrize("command", [["submit", "RECIPE", "--no-image-check"], ["status"], ["logs", "x"], ["cancel", "x"]])
def test_without_a_cluster_every_command_is_one_sentence(recipe: Path, command: list[str]) -> None:
    done = bioie(*[str(recipe) if word == "RECIPE" else word for word in command])
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Kubernetes to talk to")
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_image_that_the_registry_does_not_have_or_that_does_not_answer(recipe: Path) -> None:
    done = bioie("submit", str(recipe), "--dry-run", BIOIE_IMAGE="localhost:9/bioie-ray:x")
    assert done.returncode == 0
    assert "could not be checked from here" in done.stderr


def test_an_unknown_target_is_named(recipe: Path) -> None:
    done = bioie("submit", str(recipe), "--to", "slurm")
    assert done.returncode == 1
    assert "--to slurm is not known; give kube" in done.stderr


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, b"404 page not found\n", "has no RayJob resource"),
        (401, {"kind": "Status", "reason": "Unauthorized", "message": "Unauthorized"}, "does not know you"),
        (
            403,
            {"kind": "Status", "reason": "Forbidden", "message": 'rayjobs.ray.io is forbidden: User "eve" cannot list resource "rayjobs"'},
            "bioie-client",
        ),
        (403, {"kind": "Status", "reason": "Forbidden", "message": "exceeded quota: bioie"}, "refused to read .*exceeded quota: bioie"),
    ],
)
def test_refusals_are_sentences_with_a_next_step(status: int, body: object, words: str) -> None:
    with fake_api_server() as fake:
        fake.routes["/apis/ray.io/v1/namespaces/bioie/rayjobs"] = lambda _query: Reply(body, status)
        with pytest.raises(ApiError, match=words) as caught:
            fake.cluster().items("/apis/ray.io/v1/namespaces/bioie/rayjobs")
    assert caught.value.status == status


def test_a_server_that_is_not_there() -> None:
    with fake_api_server() as fake:
        cluster = fake.cluster()
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no answer from the API server .*check KUBECONFIG"):
        cluster.get("/version")
    assert time.monotonic() - begun < 10


def test_what_takes_too_long_is_given_up() -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match="the store did not answer within 0 s"):
        within(0.2, lambda: time.sleep(5), "the store")
    assert time.monotonic() - begun < 3
    assert within(5, lambda: 7, "x") == 7
    with pytest.raises(KeyError):
        within(5, lambda: {}["missing"], "x")


def test_where_a_recipe_keeps_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BIOIE_STORE", "BIOIE_STORAGE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    named = Recipe.model_validate({"name": "a", "job": "embed", "store": "s3://b/x", "storage": {"endpoint": "http://s3:9000"}})
    assert store_of_recipe(named, None) == StoreAddress("s3://b/x", "http://s3:9000")
    on_volume = Recipe.model_validate(
        {"name": "a", "job": "embed", "store": "/store/x", "cluster": {"kube": {"storage_claim": "bioie-store"}}}
    )
    assert store_of_recipe(on_volume, None) is None
    with fake_api_server() as fake:
        site = {"data": {"store": "s3://site/y", "storage-endpoint": "http://inside:9000"}}
        fake.routes["/api/v1/namespaces/bioie/configmaps/bioie-site"] = lambda _query: Reply(site)
        assert store_of_recipe(Recipe(name="a", job="embed"), fake.cluster()) == StoreAddress("s3://site/y", "http://inside:9000")
        assert store_of_recipe(named, fake.cluster()) == StoreAddress("s3://b/x", "http://s3:9000")


def one(checks: list[Check]) -> Check:
    (check,) = checks
    return check


def test_a_local_store_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    check = one(list(local_checks.check_store(StoreAddress(str(tmp_path / "store")), KubeSettings())))
    assert check.state == "ok"
    assert list((tmp_path / "store").iterdir()) == []
    assert one(list(local_checks.check_store(StoreAddress(str(tmp_path / "new/store")), KubeSettings()))).state == "ok"
    assert not (tmp_path / "new").exists()


def test_models_are_looked_for_without_loading_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def state(model: str) -> str:
        recipe = Recipe.model_validate({"name": "a", "job": "embed", "embed": {"model": model}})
        return one(list(local_checks.check_models(recipe))).state

    assert state("offline:all-minilm-l6-v2") == "ok"
    assert state(str(tmp_path)) == "ok"
    assert state(str(tmp_path / "missing")) == "warning"
    assert state("org/model") == "failed"
    (tmp_path / "hub/models--org--model").mkdir(parents=True)
    assert state("org/model") == "ok"


def test_of_instruction_data_only_the_tokenizer_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    data = {
        "name": "a",
        "job": "prepare_instructions",
        "embed": {"model": "org/none"},
        "train": {"base_model": str(tmp_path)},
    }
    assert one(list(local_checks.check_models(Recipe.model_validate(data)))).state == "ok"
    missing = {**data, "train": {"base_model": "org/none"}}
    assert one(list(local_checks.check_models(Recipe.model_validate(missing)))).state == "failed"
