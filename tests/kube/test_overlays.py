"""The kustomize overlays on a real API server: applied, applied again, what the accounts may do, which pods are let in.

Each overlay goes into a namespace of its own, which is deleted afterwards; nothing here touches the namespace `bioie`."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
OVERLAYS = ("local", "gpu", "kueue")
# What is not in a namespace goes too, unless it was there before.
CLUSTER_SCOPED = {"ClusterRole", "PriorityClass", "ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass"}


def kubectl(*arguments: str, given: Json | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["kubectl", *arguments], input=None if given is None else json.dumps(given), capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done


@pytest.fixture(scope="module")
def served(kubeconfig: str) -> set[str]:
    """API groups of the cluster."""
    assert kubeconfig
    return {line.split("/")[0] for line in kubectl("api-versions").stdout.split()}


def overlay_in(folder: Path, overlay: str, namespace: str) -> Path:
    """A kustomization that puts an overlay into another namespace, as the base says to."""
    above = os.path.relpath(ROOT / "k8s" / "overlays" / overlay, folder)
    (folder / "kustomization.yaml").write_text(
        f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: {namespace}\nresources: [{above}]\n"
    )
    return folder


@pytest.fixture(scope="module", params=OVERLAYS)
def applied(request: pytest.FixtureRequest, served: set[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(namespace, kustomization) of an overlay that has been applied."""
    if request.param == "kueue" and "kueue.x-k8s.io" not in served:
        pytest.skip("the cluster has no Kueue (0.15 or newer)")
    namespace = f"bioie-test-{secrets.token_hex(4)}"
    folder = overlay_in(tmp_path_factory.mktemp(request.param).resolve(), request.param, namespace)
    built = list(yaml.safe_load_all(kubectl("kustomize", str(folder)).stdout))
    own = [item for item in built if item["kind"] in CLUSTER_SCOPED and not exists(item)]
    try:
        # The namespace has to be there before a server-side dry run can say anything about what goes into it.
        kubectl("create", "namespace", namespace)
        kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k", str(folder))
        kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))
        wait_until(lambda: "hard" in get(namespace, "resourcequota", "bioie")["status"])
        yield namespace, folder
    finally:
        kubectl("delete", "namespace", namespace, "--wait=false", check=False)
        for item in own:
            kubectl("delete", item["kind"], item["metadata"]["name"], "--wait=false", check=False)


def exists(item: Json) -> bool:
    return kubectl("get", item["kind"], item["metadata"]["name"], check=False).returncode == 0


def wait_until(condition: Any, limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def get(namespace: str, kind: str, *name: str) -> Json:
    found: Json = json.loads(kubectl("-n", namespace, "get", kind, *name, "-o", "json").stdout)
    return found


def rights(namespace: str, account: str) -> set[tuple[str, str, str, str]]:
    """(verb, group, resource, name) that the API server grants an account in its namespace, beyond what every account has."""

    def granted(user: str) -> set[tuple[str, str, str, str]]:
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
        who = [f"--as={user}", "--as-group=system:serviceaccounts", "--as-group=system:authenticated"]
        answer = json.loads(kubectl("create", "--validate=false", "-f", "-", "-o", "json", *who, given=review).stdout)
        return {
            (verb, group, resource, only)
            for rule in answer["status"]["resourceRules"]
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for only in rule.get("resourceNames") or [""]
        }

    prefix = f"system:serviceaccount:{namespace}"
    return granted(f"{prefix}:{account}") - granted(f"{prefix}:nobody-of-that-name")


def pod(**security: Any) -> Json:
    """A pod like ours, with the pod-level security settings changed."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe"},
        "spec": {
            "serviceAccountName": "bioie-worker",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
                **security,
            },
            "containers": [
                {
                    "name": "ray-worker",
                    "image": "example.com/none:1",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def tried(namespace: str, manifest: Json) -> subprocess.CompletedProcess[str]:
    return kubectl("-n", namespace, "create", "--dry-run=server", "-o", "json", "-f", "-", given=manifest, check=False)


def test_applying_again_changes_nothing(applied: tuple[str, Path]) -> None:
    namespace, folder = applied
    before = get(namespace, "networkpolicy", "default-deny")["metadata"]["resourceVersion"]
    # More than one try, because controllers add finalizers and status to fresh objects between the two looks that `diff` takes.
    wait_until(lambda: kubectl("diff", "--server-side", "--force-conflicts", "-k", str(folder), check=False).returncode == 0)
    kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))
    assert get(namespace, "networkpolicy", "default-deny")["metadata"]["resourceVersion"] == before


def test_only_the_head_has_rights_and_only_the_autoscalers(applied: tuple[str, Path]) -> None:
    namespace, _ = applied
    assert rights(namespace, "bioie-worker") == set()
    assert rights(namespace, "bioie-submitter") == set()
    assert rights(namespace, "bioie-head") == {
        ("get", "", "pods", ""),
        ("list", "", "pods", ""),
        ("get", "ray.io", "rayclusters", "bioie"),
        ("patch", "ray.io", "rayclusters", "bioie"),
    }


@pytest.mark.parametrize("applied", ["local"], indirect=True)
def test_the_operator_leaves_the_rights_of_the_standing_cluster_as_they_are(applied: tuple[str, Path]) -> None:
    namespace, _ = applied
    manifest = yaml.safe_load((ROOT / "k8s/raycluster.yaml").read_text())
    manifest["metadata"]["namespace"] = namespace
    before = rights(namespace, "bioie-head")
    kubectl("-n", namespace, "create", "-f", "-", given=manifest)
    try:
        # The operator makes accounts and roles first, pods last.
        wait_until(lambda: "pod/bioie-head" in kubectl("-n", namespace, "get", "pods", "-o", "name").stdout, limit_s=60)
        assert {item["metadata"]["name"] for item in get(namespace, "role")["items"]} == {"bioie", "bioie-client"}
        assert rights(namespace, "bioie-head") == before
    finally:
        kubectl("-n", namespace, "delete", "raycluster", "bioie")


def test_whoever_is_bound_to_the_client_role_may_submit_and_not_read_the_storage_keys(applied: tuple[str, Path]) -> None:
    namespace, _ = applied
    kubectl("-n", namespace, "create", "serviceaccount", "ci")
    kubectl("-n", namespace, "create", "rolebinding", "ci", "--role=bioie-client", f"--serviceaccount={namespace}:ci")

    who = f"--as=system:serviceaccount:{namespace}:ci"

    def may(*what: str) -> bool:
        return kubectl("-n", namespace, "auth", "can-i", *what, who, check=False).stdout.strip() == "yes"

    wait_until(lambda: may("create", "rayjobs.ray.io"))
    assert may("delete", "rayjobs.ray.io")
    assert may("get", "pods", "--subresource=log")
    assert may("get", "secrets/bioie")
    assert not may("get", "secrets/bioie-storage")
    assert not may("list", "secrets")
    assert may("get", f"namespaces/{namespace}")
    assert kubectl("auth", "can-i", "get", "namespaces/default", who, check=False).stdout.strip() == "no"
    assert not may("create", "pods")
    assert not may("create", "pods", "--subresource=exec")


def test_a_pod_like_ours_is_let_in_and_a_root_pod_is_not(applied: tuple[str, Path]) -> None:
    namespace, _ = applied
    ours = tried(namespace, pod())
    assert ours.returncode == 0, ours.stderr
    (container,) = json.loads(ours.stdout)["spec"]["containers"]
    assert container["resources"]["requests"] == {"cpu": "100m", "memory": "256Mi"}, "the LimitRange's, or the quota would refuse it"
    for refused, reason in ((pod(runAsNonRoot=False, runAsUser=0), "runAsNonRoot"), (pod(seccompProfile=None), "seccompProfile")):
        answer = tried(namespace, refused)
        assert answer.returncode != 0
        assert 'violates PodSecurity "restricted:' in answer.stderr
        assert reason in answer.stderr


def test_what_goes_over_the_quota_is_refused(applied: tuple[str, Path]) -> None:
    namespace, _ = applied
    hungry = pod()
    hungry["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1000"}}
    exposed = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "dashboard"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 8265}], "selector": {"ray.io/node-type": "head"}},
    }
    for manifest, short in ((hungry, "requests.cpu=1k"), (exposed, "services.loadbalancers=1")):
        answer = tried(namespace, manifest)
        assert answer.returncode != 0
        assert "exceeded quota: bioie" in answer.stderr
        assert short in answer.stderr


@pytest.mark.parametrize("applied", ["kueue"], indirect=True)
def test_the_queue_takes_jobs(applied: tuple[str, Path]) -> None:
    namespace, _ = applied

    def active(kind: str) -> bool:
        conditions = get(namespace, kind, "bioie").get("status", {}).get("conditions", [])
        return any(condition["type"] == "Active" and condition["status"] == "True" for condition in conditions)

    wait_until(lambda: active("clusterqueue.kueue.x-k8s.io") and active("localqueue.kueue.x-k8s.io"))
