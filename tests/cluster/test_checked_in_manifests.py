"""The manifests under k8s/: what the renderer makes now, valid for KubeRay, small enough for the local overlay, and accepted by a server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from crd_schema import problems
from overlays import K8S, kustomize
from render_builders import DEMO, GPU, IMAGE, QUEUED, ROOT, Json, containers, demo, job_spec, load, manifests, templates, variables

from bioie_ray import __version__
from bioie_ray.cluster.raycluster import render_raycluster
from bioie_ray.cluster.rayjob import read_recipe_text, render_raycronjob, render_rayjob
from bioie_ray.cluster.resources import ResourceError
from bioie_ray.config.recipe import load_recipe

MANIFESTS = manifests()


@pytest.fixture(scope="module")
def rendered_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/render_manifests.sh makes now."""
    folder = tmp_path_factory.mktemp("k8s")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BIOIE_")}
    subprocess.run([ROOT / "scripts/render_manifests.sh", str(folder)], check=True, env=kept)
    return folder


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_it_is_what_the_renderer_makes(path: Path, rendered_anew: Path) -> None:
    anew = rendered_anew / path.relative_to(K8S)
    assert path.read_text() == anew.read_text(), "run scripts/render_manifests.sh"


def test_there_is_one_for_every_job_and_one_for_all_of_dfpo(rendered_anew: Path) -> None:
    jobs = {path.stem.replace("_", "-") for path in (ROOT / "jobs").glob("*.py")}
    names = {path.stem for path in (K8S / "rayjobs").glob("*.yaml")}
    assert names == jobs | {"dfpo"} == {path.stem for path in (rendered_anew / "rayjobs").iterdir()}
    assert {yaml.safe_load(read_recipe_text(load(path)))["job"].replace("_", "-") for path in (K8S / "rayjobs").glob("*.yaml")} == jobs


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_it_is_valid_and_loses_no_field(path: Path) -> None:
    assert problems(load(path)) == []


VARIANTS: dict[str, list[str]] = {
    "elastic": [],
    "queued": QUEUED,
    "gpu": GPU,
    "everything": [
        "cluster.kube.ca_config_map=ca",
        "cluster.kube.storage_claim=c",
        "cluster.kube.image_pull_secrets=[r]",
        "cluster.kube.priority_class=p",
        "cluster.kube.gcs_redis=redis:6379",
        "cluster.kube.gcs_redis_secret=r",
    ],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_is_valid_and_loses_no_field(overrides: list[str]) -> None:
    recipe = demo(*overrides)
    assert problems(render_rayjob(recipe, image=IMAGE)) == []
    if recipe.cluster.kube.profile == "elastic":
        assert problems(render_raycluster(recipe.cluster.kube, image=IMAGE)) == []
        assert problems(render_raycronjob(recipe, image=IMAGE, schedule="@daily")) == []


def test_the_method_of_its_authors_is_a_job_for_gpus() -> None:
    path = ROOT / "jobs/recipes/dfpo_gemma2_9b.yaml"
    recipe = load_recipe(path)
    manifest = render_rayjob(recipe, image=IMAGE)
    assert problems(manifest) == []
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 1)
    container = next(found for found in group["template"]["spec"]["containers"] if found["name"] == "ray-worker")
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == recipe.cluster.ranks == 4
    assert {"NCCL_DEBUG", "TORCH_NCCL_ASYNC_ERROR_HANDLING"} <= {variable["name"] for variable in container["env"]}
    assert any(volume["mountPath"] == "/dev/shm" for volume in container["volumeMounts"])
    queued = load_recipe(path, ["cluster.kube.profile=queued", "cluster.kube.queue=bioie"])
    manifest = render_rayjob(queued, image=IMAGE)
    assert problems(manifest) == []
    assert manifest["spec"]["suspend"] is True, "Kueue admits head and ranks as one"
    with pytest.raises(ResourceError, match=r"cluster\.ranks=8 .* hold 4 of 2 CPUs; raise max_replicas"):
        render_rayjob(load_recipe(path, ["cluster.ranks=8"]), image=IMAGE)


def test_the_schema_refuses_what_the_server_would_drop() -> None:
    manifest = render_rayjob(demo(), image=IMAGE)
    manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["securityContex"] = {}
    manifest["spec"]["backoffLimit"] = "two"
    assert len(problems(manifest)) == 2


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_it_names_the_release_and_no_secret(path: Path) -> None:
    manifest = load(path)
    image = f"localhost:5000/bioie-ray:{__version__}-cpu"
    assert {container.get("image", image) for _, container in containers(manifest)} == {image}
    assert "AWS_" not in path.read_text()
    assert manifest["metadata"]["namespace"] == "bioie"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_what_was_chosen_is_explained_beside_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    chosen = ["authOptions:", "enableInTreeAutoscaling:", "tolerations:"]
    if path.stem != "raycluster":
        chosen += ["submissionMode:", "backoffLimit:", "activeDeadlineSeconds:", "shutdownAfterJobFinishes:", "deletionStrategy:"]
    if path.stem == "raycronjob":
        chosen.append("jobTemplate:")
    for field in chosen:
        at = next(
            number for number, line in enumerate(lines) if line.strip().startswith(field) and lines[number - 1].strip().startswith("#")
        )
        assert len(lines[at - 1].strip()) > 10, field


def test_the_alpha_is_marked() -> None:
    assert "alpha" in (K8S / "raycronjob.yaml").read_text().partition("apiVersion")[0]


def test_the_standing_cluster_has_cpus_and_gpus_from_nothing() -> None:
    groups = load(K8S / "raycluster.yaml")["spec"]["workerGroupSpecs"]
    assert {group["groupName"]: group["minReplicas"] for group in groups} == {"cpu": 0, "gpu": 0}
    gpu = templates(load(K8S / "raycluster.yaml"))["gpu"]["spec"]
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert any("spot" in toleration["key"] for toleration in gpu["tolerations"])


def test_kustomize_names_another_image_everywhere(tmp_path: Path) -> None:
    copy = tmp_path / "k8s"
    shutil.copytree(K8S, copy)
    path = copy / "kustomization.yaml"
    path.write_text(path.read_text().replace("newName: localhost:5000/bioie-ray", "newName: registry.example/team/bioie\n  newTag: '7'"))
    objects = kustomize(copy)
    assert len(objects) == len(MANIFESTS)
    for manifest in objects:
        for name, container in containers(manifest):
            assert container.get("image", "registry.example/team/bioie:7") == "registry.example/team/bioie:7", name
            if name.endswith(("/ray-head", "/ray-worker")):
                assert variables(container)["BIOIE_IMAGE"]["value"] == "registry.example/team/bioie:7", name


@pytest.mark.cluster
class TestServer:
    """A real API server, by a dry run of each: https://kubernetes.io/docs/reference/using-api/api-concepts/#dry-run."""

    @pytest.fixture(scope="class")
    def namespace(self) -> str:
        if not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None:
            pytest.skip("KUBECONFIG is not set, or kubectl is not on PATH: no Kubernetes to try manifests on")
        found = subprocess.run(
            ["kubectl", "get", "crd", "rayjobs.ray.io", "--request-timeout=10s"], capture_output=True, text=True, check=False
        )
        if found.returncode != 0:
            pytest.skip(f"the cluster has no KubeRay: {found.stderr.strip()}")
        return "default"

    def apply(self, namespace: str, manifest: Json) -> None:
        # strict: fields that the server does not know are errors, not warnings
        command = ["kubectl", "create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-"]
        manifest["metadata"]["namespace"] = namespace
        done = subprocess.run(command, input=yaml.safe_dump(manifest), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
    def test_it_takes_what_is_checked_in(self, namespace: str, path: Path) -> None:
        self.apply(namespace, load(path))

    @pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
    def test_it_takes_every_variant(self, namespace: str, overrides: list[str]) -> None:
        self.apply(namespace, render_rayjob(demo(*overrides), image=IMAGE))


def test_the_local_pods_hold_the_demo_with_room_for_the_tests() -> None:
    spec = job_spec(load(K8S / "rayjobs" / "select-examples.yaml"))
    assert DEMO.name in (K8S / "rayjobs" / "select-examples.yaml").read_text().splitlines()[1]
    requested = [container["resources"]["requests"]["cpu"] for _, container in containers({"kind": "RayJob", "spec": spec})]
    assert sum(int(cpu.removesuffix("m")) for cpu in requested) <= 1000
