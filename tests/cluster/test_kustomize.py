"""The kustomize base and its overlays: rights, labels, quotas and queues of what they build. tests/kube/ applies them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from overlays import K8S, LABELS, OVERLAYS, Json, built, kustomize, matches, one

from bioie_ray.cluster.capacity import parse_quantity
from bioie_ray.config.cluster import ClusterSettings

CLUSTER_SCOPED = {"Namespace", "ClusterRole", "PriorityClass", "ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass"}


def rules(objects: Iterable[Json], kind: str, name: str) -> set[tuple[str, str, str, str]]:
    """(verb, group, resource, name or "") that a role allows."""
    return {
        (verb, group, resource, only)
        for rule in one(objects, kind, name)["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for only in rule.get("resourceNames", [""])
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
class TestEveryOverlay:
    def test_the_namespace_enforces_restricted_at_a_pinned_version(self, overlay: str) -> None:
        labels = one(built(overlay), "Namespace", "bioie")["metadata"]["labels"]
        assert [labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "warn", "audit")] == ["restricted"] * 3
        assert re.fullmatch(r"v1\.\d+", labels["pod-security.kubernetes.io/enforce-version"])

    def test_every_object_is_labelled_and_in_its_place(self, overlay: str) -> None:
        for item in built(overlay):
            metadata = item["metadata"]
            assert metadata["labels"].items() >= LABELS.items(), metadata["name"]
            assert metadata.get("namespace") == (None if item["kind"] in CLUSTER_SCOPED else "bioie"), metadata["name"]
            assert metadata["name"].startswith("bioie") or item["kind"] == "NetworkPolicy", metadata["name"]

    def test_nothing_secret_and_nothing_that_runs(self, overlay: str) -> None:
        assert {item["kind"] for item in built(overlay)} & {"Secret", "Pod", "Deployment", "Job", "DaemonSet"} == set()
        for item in built(overlay):  # the one ConfigMap says where the site keeps things, not how to get in
            assert item["kind"] != "ConfigMap" or set(item.get("data", {})) <= {"store", "storage-endpoint", "cluster"}

    def test_rights_name_what_they_allow(self, overlay: str) -> None:
        for item in built(overlay):
            assert "*" not in str(item.get("rules", "")), item["metadata"]["name"]
            assert not {"impersonate", "bind", "escalate"} & {verb for rule in item.get("rules", ()) for verb in rule["verbs"]}

    def test_the_head_may_do_what_the_autoscaler_does_and_no_other_account_anything(self, overlay: str) -> None:
        assert rules(built(overlay), "Role", "bioie") == {
            ("get", "", "pods", ""),
            ("list", "", "pods", ""),
            ("get", "ray.io", "rayclusters", "bioie"),
            ("patch", "ray.io", "rayclusters", "bioie"),
        }
        bindings = [item for item in built(overlay) if item["kind"].endswith("RoleBinding")]
        assert [(item["roleRef"]["name"], item["subjects"]) for item in bindings] == [
            ("bioie", [{"kind": "ServiceAccount", "name": "bioie-head", "namespace": "bioie"}])
        ]

    def test_no_account_mounts_its_token_by_itself(self, overlay: str) -> None:
        accounts = {item["metadata"]["name"]: item for item in built(overlay) if item["kind"] == "ServiceAccount"}
        assert set(accounts) == {"bioie-head", "bioie-worker", "bioie-submitter"}
        assert {item["automountServiceAccountToken"] for item in accounts.values()} == {False}

    def test_clients_change_jobs_only_and_read_one_secret(self, overlay: str) -> None:
        allowed = rules(built(overlay), "Role", "bioie-client")
        changing = {entry[:3] for entry in allowed if entry[0] not in {"get", "list", "watch"}}
        assert changing == {*((verb, "ray.io", "rayjobs") for verb in ("create", "patch", "delete")), ("create", "", "pods/portforward")}
        assert {entry for entry in allowed if entry[2] == "secrets"} == {("get", "", "secrets", "bioie")}
        assert {entry for entry in allowed if entry[2] == "configmaps"} == {("get", "", "configmaps", "bioie-site")}
        assert not {"pods/exec", "serviceaccounts/token"} & {entry[2] for entry in allowed}
        reading = rules(built(overlay), "ClusterRole", "bioie-client-cluster")
        assert reading == {("list", "", "nodes", ""), ("get", "scheduling.k8s.io", "priorityclasses", "")}

    def test_dashboards_are_never_exposed_outside(self, overlay: str) -> None:
        hard = one(built(overlay), "ResourceQuota", "bioie")["spec"]["hard"]
        assert (hard["services.loadbalancers"], hard["services.nodeports"]) == ("0", "0")

    def test_a_container_without_requests_is_given_all_that_the_quota_counts(self, overlay: str) -> None:
        hard = one(built(overlay), "ResourceQuota", "bioie")["spec"]["hard"]
        (limits,) = one(built(overlay), "LimitRange", "bioie")["spec"]["limits"]
        given = {f"requests.{name}" for name in limits["defaultRequest"]} | {f"limits.{name}" for name in limits["default"]}
        counted = {name for name in hard if name.startswith(("requests.", "limits."))} - {"requests.nvidia.com/gpu"}
        assert counted == given
        assert "cpu" not in limits["default"]


def test_the_overlays_differ_where_they_should() -> None:
    def quota(overlay: str, resource: str) -> float:
        return parse_quantity(one(built(overlay), "ResourceQuota", "bioie")["spec"]["hard"][resource])

    assert quota("local", "requests.cpu") < quota("gpu", "requests.cpu")
    assert quota("local", "requests.memory") < quota("gpu", "requests.memory")
    assert quota("gpu", "requests.nvidia.com/gpu") >= 8
    base = kustomize(K8S / "base")
    assert one(base, "ResourceQuota", "bioie")["spec"]["hard"]["requests.nvidia.com/gpu"] == "0"


def test_the_site_says_where_the_store_is_where_it_is_known() -> None:
    settings = ClusterSettings().kube
    assert settings.site_config_map is not None
    data = {overlay: one(built(overlay), "ConfigMap", settings.site_config_map).get("data", {}) for overlay in OVERLAYS}
    assert set(data["local"]) == {"store", "storage-endpoint", "cluster"}
    small = yaml.safe_load((K8S / "pods/small.yaml").read_text())["cluster"]
    assert yaml.safe_load(data["local"]["cluster"]) == {**small, "kube": {"registry": "localhost:5000", **small["kube"]}}
    assert data["gpu"] == data["kueue"] == {}, "a bucket of somebody else"


def asked(manifest: Json) -> dict[str, float]:
    """What all pods of a rendered manifest request together, with every group at its largest."""
    spec = manifest["spec"].get("jobTemplate", manifest["spec"])
    ray = spec.get("rayClusterSpec", spec)
    pods = [(1, ray["headGroupSpec"]["template"]), *((group["maxReplicas"], group["template"]) for group in ray["workerGroupSpecs"])]
    pods += [(1, spec["submitterPodTemplate"])] if "submitterPodTemplate" in spec else []
    containers = [(count, container) for count, pod in pods for container in pod["spec"]["containers"]]
    containers += [(1, ray["autoscalerOptions"])] if ray.get("enableInTreeAutoscaling") else []
    total: dict[str, float] = {"requests.nvidia.com/gpu": 0.0, "pods": float(sum(count for count, _ in pods))}
    for count, container in containers:
        for kind, names in (("requests", ("cpu", "memory", "nvidia.com/gpu")), ("limits", ("memory",))):
            for name in names:
                amount = container["resources"][kind].get(name, 0) if "gpu" in name else container["resources"][kind][name]
                total[f"{kind}.{name}"] = total.get(f"{kind}.{name}", 0.0) + count * parse_quantity(amount)
    return total


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_quota_holds_all_manifests_here_at_once(overlay: str) -> None:
    hard = one(built(overlay), "ResourceQuota", "bioie")["spec"]["hard"]
    manifests = [yaml.safe_load(path.read_text()) for path in [*sorted((K8S / "rayjobs").glob("*.yaml")), *K8S.glob("ray*.yaml")]]
    assert {manifest["kind"] for manifest in manifests} == {"RayJob", "RayCluster", "RayCronJob"}
    needs = [asked(manifest) for manifest in manifests]
    for name in needs[0]:
        assert sum(need[name] for need in needs) <= parse_quantity(hard[name]), name


@pytest.mark.parametrize("overlay", ["gpu", "kueue"])
def test_the_quota_holds_three_jobs_of_default_size(overlay: str) -> None:
    hard = one(built(overlay), "ResourceQuota", "bioie")["spec"]["hard"]
    settings = ClusterSettings().kube
    for name, head, group in (("cpu", settings.head.cpus, "cpus"), ("memory", settings.head.memory_gib * 2**30, "memory_gib")):
        unit = 2**30 if name == "memory" else 1
        job = head + unit * sum(workers.max_replicas * getattr(workers, group) for workers in settings.workers.values())
        assert 3 * job < parse_quantity(hard[f"requests.{name}"])


def test_batch_jobs_give_way_and_still_make_the_cluster_grow() -> None:
    batch = one(built("gpu"), "PriorityClass", "bioie-batch")
    urgent = one(built("gpu"), "PriorityClass", "bioie-urgent")
    assert -10 <= batch["value"] < urgent["value"] < 0, "below -10 the cluster autoscaler adds no nodes; 0 is what other pods have"
    assert (batch["preemptionPolicy"], batch.get("globalDefault", False)) == ("Never", False)


def test_the_queue_is_whole_and_smaller_than_the_quota() -> None:
    objects = built("kueue")
    local, cluster = one(objects, "LocalQueue", "bioie"), one(objects, "ClusterQueue", "bioie")
    assert local["spec"]["clusterQueue"] == cluster["metadata"]["name"]
    namespace = one(objects, "Namespace", local["metadata"]["namespace"])
    assert matches(cluster["spec"]["namespaceSelector"], namespace["metadata"]["labels"])
    (group,) = cluster["spec"]["resourceGroups"]
    (flavor,) = group["flavors"]
    one(objects, "ResourceFlavor", flavor["name"])
    nominal = {entry["name"]: parse_quantity(entry["nominalQuota"]) for entry in flavor["resources"]}
    assert set(nominal) == set(group["coveredResources"]) == {"cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"}
    hard = one(objects, "ResourceQuota", "bioie")["spec"]["hard"]
    for name in ("cpu", "memory", "nvidia.com/gpu"):
        assert nominal[name] <= parse_quantity(hard[f"requests.{name}"]), f"an admitted job would be refused its pods: {name}"
    values = [item["value"] for item in objects if item["kind"] == "WorkloadPriorityClass"]
    assert len(values) == len(set(values)) == 3
    assert ("list", "kueue.x-k8s.io", "workloads", "") in rules(objects, "Role", "bioie-client")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_another_namespace_is_one_line_in_an_overlay(overlay: str, tmp_path: Path) -> None:
    above = os.path.relpath(K8S / "overlays" / overlay, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(f"namespace: team-a\nresources: [{above}]\n")
    objects = kustomize(tmp_path)
    one(objects, "Namespace", "team-a")
    assert {item["metadata"].get("namespace", "team-a") for item in objects} == {"team-a"}
    assert one(objects, "RoleBinding", "bioie")["subjects"][0]["namespace"] == "team-a"


def test_the_overlay_of_the_readme_builds(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(# kustomization.yaml\n.*?)```", (K8S / "README.md").read_text(), re.DOTALL)
    above = os.path.relpath(K8S, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(re.sub(r"github.com/YOU/bioie-ray/k8s(/\w+)\?ref=[\w.]+", rf"{above}\1", block))
    objects = kustomize(tmp_path)
    one(objects, "Namespace", "team-a")
    assert one(objects, "ConfigMap", "bioie-site")["data"] == {"store": "s3://BUCKET/PREFIX"}
    hard = one(objects, "ResourceQuota", "bioie")["spec"]["hard"]
    assert (hard["requests.cpu"], hard["services.nodeports"]) == ("200", "0")


def test_the_claim_is_for_many_nodes() -> None:
    folder = K8S / "components" / "store-pvc"
    claim = yaml.safe_load((folder / "claim.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_example_of_spot_workers_is_a_valid_section_of_a_recipe() -> None:
    data = yaml.safe_load((K8S / "overlays/gpu/spot-workers.yaml").read_text())
    assert set(data) == {"cluster"}
    settings = ClusterSettings.model_validate(data["cluster"])
    group = settings.kube.workers["gpu"]
    assert group.gpus == 1
    assert any("spot" in toleration["key"] for toleration in group.tolerations)
    one(built("gpu"), "PriorityClass", str(settings.kube.priority_class))
