"""A real Kubernetes with the KubeRay operator: any KUBECONFIG will do. Without one the tests here are skipped, with the reason.

    KUBECONFIG                     whose cluster; kubectl has to be on PATH
    BIOIE_TEST_IMAGE               the image that its nodes can pull
    BIOIE_TEST_KUBE_S3             an S3 server as pods reach it; left out: the service `s3` of the namespace `testbed`
    BIOIE_TEST_KUBE_S3_HOST        the same server as this machine reaches it; left out: as pods do
    BIOIE_TEST_KUBE_S3_KEY, _SECRET    its credentials
    BIOIE_REQUIRE_CLUSTER=1        what would be skipped for want of a cluster fails instead (CI)
    BIOIE_CLUSTER_SUITE=1          also the slow and disruptive tests (scripts/cluster_suite.sh)

A session has a namespace of its own, made from k8s/overlays/local as kubectl would, which goes away at the end. Each test
that starts a RayJob takes it away again: small machines hold one Ray cluster at a time beside the standing one.
"""

from __future__ import annotations

import copy
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from kube_access import Cluster, own_namespace
from pod_store import PodS3, PodStore
from s3_server import S3Server

# Requests are small because two cores have to hold a Ray cluster, the operator, and the tests.
SMALL: dict[str, Any] = {"cpus": 0.1, "max_cpus": 2, "ray_cpus": 1, "memory_gib": 3, "spill_gib": 1, "object_store_share": 0.1}
PODS: dict[str, Any] = {
    "head": {**SMALL, "ray_cpus": 0, "memory_gib": 2.5},
    "workers": {"cpu": {**SMALL, "min_replicas": 0, "max_replicas": 1}},
}
WORKERS: dict[str, Any] = {"num_workers": 1, "memory_per_worker_gib": 1.5}
TINY: dict[str, Any] = {
    "job": "select_examples",
    "task": "biorelex",
    "prepare": {"documents_per_shard": 8},
    "embed": {"max_seq_length": 64},
    "select": {"k": 12, "keep": 10, "rerank": False},
}


def absent(reason: str) -> NoReturn:
    """Skip, or fail where a cluster is demanded."""
    if os.environ.get("BIOIE_REQUIRE_CLUSTER") == "1":
        pytest.fail(f"{reason} (BIOIE_REQUIRE_CLUSTER=1)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def suite() -> None:
    """Leaves a test out of CI: it is slow, or disturbs more than its own namespace."""
    if os.environ.get("BIOIE_CLUSTER_SUITE") != "1":
        pytest.skip("run scripts/cluster_suite.sh: this test is slow, or disturbs more than its own namespace")


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    """The path of a kubeconfig whose cluster has the KubeRay operator."""
    path = os.environ.get("KUBECONFIG", "")
    if not path:
        absent("KUBECONFIG is not set: no Kubernetes to test on")
    if shutil.which("kubectl") is None:
        absent("kubectl is not on PATH")
    probe = ["kubectl", "get", "crd", "rayjobs.ray.io", "--request-timeout=10s"]
    found = subprocess.run(probe, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        absent(f"the cluster of {path} has no KubeRay operator, or does not answer: {found.stderr.strip()}")
    return path


@pytest.fixture(scope="session")
def pod_s3(kubeconfig: str) -> PodS3:
    """An S3 server that pods and this machine reach."""
    try:
        return PodS3.from_environment()
    except LookupError as error:
        absent(str(error))


@pytest.fixture(scope="session")
def bucket(pod_s3: PodS3) -> str:
    """A bucket for this session."""
    server = S3Server(pod_s3.host, dict(pod_s3.environment))
    server.start()
    server.make_bucket()
    return server.bucket


@pytest.fixture
def pod_store(pod_s3: PodS3, bucket: str) -> PodStore:
    """An empty store that pods and this machine reach."""
    return PodStore(f"s3://{bucket}/{secrets.token_hex(4)}", pod_s3)


@pytest.fixture(scope="session")
def cluster(kubeconfig: str, repository: Path, pod_s3: PodS3) -> Iterator[Cluster]:
    """The cluster, with a namespace of our own in it: restricted pods, the accounts, and the storage's credentials."""
    with own_namespace(repository, pod_s3.environment, prefix="bioie-test") as found:
        yield found


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    """The image of all pods, pulled by at least one node."""
    name = os.environ.get("BIOIE_TEST_IMAGE", "")
    if not name:
        absent("BIOIE_TEST_IMAGE is not set: scripts/build_image.sh and scripts/push_image.sh make one")
    cluster.pull(name)
    return name


@pytest.fixture(scope="session")
def pods() -> dict[str, Any]:
    """Settings of small pods, as a recipe's ``cluster.kube`` takes them."""
    return copy.deepcopy(PODS)


@dataclass(frozen=True)
class Recipes:
    """Makes small recipes for pods of the tests' namespace."""

    folder: Path
    namespace: str
    image: str

    def __call__(self, name: str, store: PodStore, kube: Mapping[str, Any] | None = None, **sections: Any) -> Path:
        """A recipe file: ``TINY`` with sections replaced; ``kube`` goes on top of the pods' settings."""
        settings = {"namespace": self.namespace, "image": self.image, "keep_after_finish_s": 60, "idle_timeout_s": 30, **PODS}
        data = {
            **copy.deepcopy(TINY),
            "name": name,
            **store.settings,
            **sections,
            "cluster": {**WORKERS, **sections.get("cluster", {}), "kube": {**copy.deepcopy(settings), **(kube or {})}},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path


@pytest.fixture
def recipes(tmp_path: Path, cluster: Cluster, image: str) -> Recipes:
    """Recipes for this cluster."""
    return Recipes(tmp_path, cluster.namespace, image)


@dataclass
class Local:
    """Undisturbed outputs of the same recipes, made in one plain process; made once, whatever the store."""

    repository: Path
    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    def __call__(self, recipe: Path) -> Path:
        """The store with the outputs of a recipe."""
        data = yaml.safe_load(recipe.read_text())
        for place in ("store", "storage", "cluster"):
            data.pop(place, None)
        key = yaml.safe_dump(data)
        if key not in self.made:
            store = self.folder / secrets.token_hex(4)
            sets = ["--set", f"store={store}", "--set", "cluster={executor: inline}", "--set", "storage={}"]
            command = [sys.executable, str(self.repository / f"jobs/{data['job']}.py"), "--recipe", str(recipe), *sets]
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": str(self.repository)}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            self.made[key] = store
        return self.made[key]


@pytest.fixture(scope="session")
def local(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Local:
    """What a recipe gives on this machine, without any cluster."""
    return Local(repository, tmp_path_factory.mktemp("local"))


Bioie = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def bioie(kubeconfig: str, repository: Path) -> Bioie:
    """The command ``bioie``, run as a person would; never raises."""

    def run(*arguments: str, timeout_s: float = 500, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bioie_ray.cli", *arguments]
        settings = {**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "200", **(environment or {})}
        return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=timeout_s)

    return run


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows what its namespace looked like."""
    outcome: Any = yield
    report = outcome.get_result()
    found = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and call.when == "call" and isinstance(found, Cluster):
        report.sections.append(("the namespace", found.last_picture or found.picture()))
        found.last_picture = ""
