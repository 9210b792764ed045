"""The client against a real API server, scheduler, kubelet and operator, with images that cannot run: no job gets as far as Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_access import wait_until

from bioie_ray.cluster.api import RAY, ApiError, connect
from bioie_ray.cluster.api import Cluster as Client
from bioie_ray.cluster.capacity import parse_quantity
from bioie_ray.cluster.explain import Finding, explain
from bioie_ray.cluster.snapshot import gather

if TYPE_CHECKING:
    from conftest import Bioie
    from kube_access import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NOWHERE = "registry.invalid/bioie-ray:x"
SMALL: dict[str, Any] = {
    "head": {"cpus": 0.05, "ray_cpus": 0, "memory_gib": 3.25, "spill_gib": 1},
    "workers": {"cpu": {"cpus": 0.05, "ray_cpus": 1, "memory_gib": 2.5, "spill_gib": 1, "max_replicas": 1}},
}
Submit = Callable[..., str]


@pytest.fixture
def client(kubeconfig: str) -> Client:
    return connect()


@pytest.fixture
def recipe(tmp_path: Path, cluster: Cluster) -> Callable[..., Path]:
    def write(name: str, **kube: Any) -> Path:
        settings = {"namespace": cluster.namespace, "image": NOWHERE, **SMALL, **kube}
        data = {
            "name": name,
            "job": "prepare_corpora",
            "store": "s3://bucket/x",
            "cluster": {"memory_per_worker_gib": 0.5, "kube": settings},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


@pytest.fixture
def submit(cluster: Cluster, bioie: Bioie, recipe: Callable[..., Path]) -> Iterator[Submit]:
    """Submits a recipe, returns the job's name, and takes the job away at the end."""
    names = []

    def run(name: str, *options: str, **kube: Any) -> str:
        done = bioie("submit", str(recipe(name, **kube)), "--no-image-check", *options)
        assert done.returncode == 0, done.stderr
        names.append(done.stdout.strip())
        return names[-1]

    yield run
    for name in set(names):
        bioie("cancel", name, "--namespace", cluster.namespace)


def first_finding(client: Client, cluster: Cluster, name: str, within_s: float = 60) -> Finding:
    return wait_until(f"an explanation of {name}", lambda: next(iter(explain(gather(client, cluster.namespace, name))), None), within_s)


def test_a_dry_run_asks_the_server_and_makes_nothing(cluster: Cluster, bioie: Bioie, recipe: Callable[..., Path]) -> None:
    done = bioie("submit", str(recipe("dry")), "--dry-run", "--no-image-check")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["kind"] == "RayJob"
    assert "would accept the RayJob dry-" in done.stderr
    assert cluster.rayjobs() == []


def test_a_recipe_that_says_nothing_of_pods_gets_those_of_the_site(cluster: Cluster, bioie: Bioie, tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("name: plain\njob: select_examples\nselect: {rerank: false}\n")
    done = bioie("submit", str(path), "--set", f"cluster.kube.namespace={cluster.namespace}", "--dry-run", "--no-image-check")
    assert done.returncode == 0, done.stderr
    pods = yaml.safe_load(done.stdout)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    container = pods[0]["template"]["spec"]["containers"][0]
    assert container["image"].startswith("localhost:5000/bioie-ray:")
    assert container["resources"]["requests"]["cpu"] == "200m"


def test_two_submits_are_one_job_and_again_is_another(
    cluster: Cluster, client: Client, bioie: Bioie, submit: Submit, recipe: Callable[..., Path]
) -> None:
    name = submit("twice")
    assert submit("twice") == name
    assert [job["metadata"]["name"] for job in cluster.rayjobs()] == [name]
    dry = bioie("submit", str(recipe("twice")), "--dry-run", "--no-image-check")
    assert "nothing would be created" in dry.stderr
    other = submit("twice", "--again")
    assert other == f"{name}-2"
    listed = json.loads(bioie("status", "--namespace", cluster.namespace, "--json").stdout)
    assert {row["name"] for row in listed} == {name, other}


def test_a_wrong_image_is_said_and_given_up_after_the_patience_and_cancel_leaves_no_pod(
    cluster: Cluster, bioie: Bioie, recipe: Callable[..., Path]
) -> None:
    begun = time.monotonic()
    done = bioie("submit", str(recipe("wrong-image")), "--no-image-check", "--follow", "--patience", "5")
    assert done.returncode == 1
    assert time.monotonic() - begun < 120
    assert f"! the image {NOWHERE} of the head pod cannot be pulled: the registry's name is not known to the node. Next: " in done.stderr
    assert "giving up" in done.stderr
    (name,) = [job["metadata"]["name"] for job in cluster.rayjobs()]
    said = bioie("status", name, "--namespace", cluster.namespace)
    assert NOWHERE in said.stdout
    nothing = bioie("logs", name, "--namespace", cluster.namespace)
    assert nothing.returncode == 1
    assert "its driver has not started" in nothing.stderr
    gone = bioie("cancel", name, "--namespace", cluster.namespace)
    assert gone.returncode == 0, gone.stderr
    assert "no pod of it is left" in gone.stderr
    assert cluster.pods(f"ray.io/cluster={name}") == []
    assert cluster.rayjobs() == []


def test_a_pod_larger_than_any_node_is_said_with_what_the_cluster_has(cluster: Cluster, client: Client, submit: Submit) -> None:
    largest = max(parse_quantity(node["status"]["allocatable"]["cpu"]) for node in client.items("/api/v1/nodes"))
    if largest > 6:
        pytest.skip("the namespace's quota of 8 CPUs comes before its nodes' size")
    name = submit("too-large", head={**SMALL["head"], "cpus": largest + 1})
    finding = first_finding(client, cluster, name)
    assert f"the head pod finds no node: it needs {largest + 1:g}" in finding.sentence
    assert f"the cluster has {largest:g} cpu on its largest node" in finding.sentence
    assert "cluster.kube.head.cpus" in finding.next_step
    assert finding.lasting


def test_a_quota_is_said_with_its_numbers(cluster: Cluster, client: Client, submit: Submit) -> None:
    finding = first_finding(client, cluster, submit("over-quota", head={**SMALL["head"], "cpus": 300}))
    assert "the head pod is not created: the namespace's quota" in finding.sentence
    assert "requests.cpu more with " in finding.sentence
    assert finding.lasting


def test_a_missing_service_account_is_said(cluster: Cluster, client: Client, submit: Submit) -> None:
    account = cluster.kubectl("get", "serviceaccount", "bioie-head", "-o", "json")
    cluster.kubectl("delete", "serviceaccount", "bioie-head")
    try:
        finding = first_finding(client, cluster, submit("no-account"))
    finally:
        kept = json.loads(account)
        kept["metadata"] = {key: kept["metadata"][key] for key in ("name", "namespace", "labels") if key in kept["metadata"]}
        cluster.kubectl("apply", "-f", "-", text=json.dumps(kept))
    assert "bioie-head is missing" in finding.sentence
    assert "kubectl apply -k" in finding.next_step


def test_a_namespace_that_is_not_there(bioie: Bioie, recipe: Callable[..., Path]) -> None:
    done = bioie("submit", str(recipe("nowhere", namespace="bioie-nowhere")), "--no-image-check")
    assert done.returncode == 1
    assert "the cluster has no namespace bioie-nowhere; make it: " in done.stderr


def test_what_the_operator_refuses_is_said_and_final(
    cluster: Cluster, client: Client, submit: Submit, bioie: Bioie, recipe: Callable[..., Path]
) -> None:
    manifest = yaml.safe_load(bioie("submit", str(recipe("refused")), "--dry-run", "--no-image-check").stdout)
    manifest["spec"]["submissionMode"] = "InteractiveMode"  # not with backoffLimit: a rule that only the controller holds
    name = manifest["metadata"]["name"]
    client.create(f"{RAY}/namespaces/{cluster.namespace}/rayjobs", manifest)
    try:
        finding = first_finding(client, cluster, name)
        assert "the KubeRay operator refuses the job: " in finding.sentence
        assert finding.final
    finally:
        bioie("cancel", name, "--namespace", cluster.namespace)


def test_doctor_finds_the_namespace_in_order_and_a_missing_secret(cluster: Cluster, bioie: Bioie, recipe: Callable[..., Path]) -> None:
    done = bioie("doctor", str(recipe("examined")), "--json")
    found = {(check["name"], check["state"]) for check in json.loads(done.stdout)["checks"]}
    assert {
        ("cluster", "ok"),
        ("rights", "ok"),
        ("KubeRay CRDs", "ok"),
        ("KubeRay operator", "ok"),
        ("namespace", "ok"),
        ("Secret", "ok"),
    } <= found
    absent = bioie("doctor", str(recipe("examined", storage_secret="absent")), "--json")
    red = [check for check in json.loads(absent.stdout)["checks"] if check["name"] == "Secret"]
    assert absent.returncode == 1
    assert [(check["state"], "create secret generic absent" in check["fix"]) for check in red] == [("failed", True)]


def test_an_object_that_the_schema_forbids_is_refused_with_the_field(
    cluster: Cluster, client: Client, bioie: Bioie, recipe: Callable[..., Path]
) -> None:
    manifest = yaml.safe_load(bioie("submit", str(recipe("strict")), "--dry-run", "--no-image-check").stdout)
    manifest["spec"]["backofLimit"] = 1
    with pytest.raises(ApiError, match=r'unknown field "spec\.backofLimit"'):
        client.create(f"{RAY}/namespaces/{cluster.namespace}/rayjobs", manifest, dry_run=True)
