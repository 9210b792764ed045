"""What the tests of this folder do to a Kubernetes cluster: thin, and with messages that say what was waited for."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

T = TypeVar("T")
RAY = ("ray.io", "v1")
ROLE_LABEL, CLUSTER_LABEL = "ray.io/node-type", "ray.io/cluster"


def wait_until(what: str, check: Callable[[], T], timeout_s: float, every_s: float = 0.5) -> T:
    """The first true value of ``check``, or a failure that says what did not happen."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(every_s)


def kustomized(repository: Path, overlay: str, namespace: str, folder: Path) -> str:
    """An overlay of k8s/overlays in another namespace, as YAML; the kustomization that does it is written to ``folder``."""
    base = os.path.relpath(repository / "k8s/overlays" / overlay, folder)  # kustomize takes no absolute paths
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "namespace": namespace}))
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def own_namespace(repository: Path, environment: Mapping[str, str], *, prefix: str) -> Iterator[Cluster]:
    """A namespace as k8s/overlays/local makes it (restricted pods, the accounts), with the storage's credentials; it goes away at the end."""
    namespace = f"{prefix}-{secrets.token_hex(3)}"
    found = Cluster.connect(namespace)
    with tempfile.TemporaryDirectory() as folder:
        manifests = kustomized(repository, "local", namespace, Path(folder))
    try:
        found.kubectl("apply", "-f", "-", text=manifests)
        literals = [f"--from-literal={name}={value}" for name, value in environment.items()]
        found.kubectl("delete", "secret", "bioie-storage", "--ignore-not-found")
        found.kubectl("create", "secret", "generic", "bioie-storage", *literals)
        yield found
    finally:
        found.kubectl("delete", "rayjobs,rayclusters,raycronjobs", "--all", "--wait=true", "--timeout=120s", check=False)
        found.kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=180s", check=False)


@dataclass
class Cluster:
    """A namespace of a cluster, through the API server (and kubectl, where a person would use that)."""

    namespace: str
    core: client.CoreV1Api
    custom: client.CustomObjectsApi
    kubectl_path: str
    roles_seen: set[str] = field(default_factory=set)
    last_picture: str = ""

    @classmethod
    def connect(cls, namespace: str) -> Cluster:
        """The cluster of KUBECONFIG."""
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            raise RuntimeError("the cluster tests apply manifests as people do, and kubectl is not on PATH")
        api = config.new_client_from_config()
        return cls(namespace, client.CoreV1Api(api), client.CustomObjectsApi(api), kubectl)

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        """What kubectl prints, in the tests' namespace; ``text`` is its standard input."""
        command = [self.kubectl_path, "--namespace", self.namespace, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=300)
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout + (done.stderr if not check else "")

    def pods(self, selector: str = "") -> list[Any]:
        """The namespace's pods, those on their way out too."""
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def pull(self, image: str, timeout_s: float = 570) -> None:
        """Get the image onto a node and see it run as the namespace demands, so that no later time is that of a download."""
        restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {
            "name": "pull",
            "image": image,
            "command": ["python", "-c", "import bioie_ray; print(bioie_ray.__version__)"],
            "securityContext": restricted,
            "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pull"}, "spec": spec}
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump(pod))

        def phase() -> str | None:
            found = self.core.read_namespaced_pod("pull", self.namespace).status.phase
            return found if found in {"Succeeded", "Failed"} else None

        ended = wait_until(f"{image} to be pulled and to run as the namespace demands", phase, timeout_s)
        assert ended == "Succeeded", self.kubectl("logs", "pull", check=False)
        self.kubectl("delete", "pod", "pull", "--wait=false")

    def is_this_machine(self) -> bool:
        """Whether the nodes run on the machine of the tests: then floating point gives the same bits."""
        boot = Path("/proc/sys/kernel/random/boot_id")
        return boot.exists() and {node.status.node_info.boot_id for node in self.core.list_node().items} == {boot.read_text().strip()}

    def running(self, selector: str = "") -> list[Any]:
        """Pods that are ready and not on their way out."""
        return [
            pod
            for pod in self.pods(selector)
            if pod.metadata.deletion_timestamp is None
            and pod.status.phase == "Running"
            and all(status.ready for status in pod.status.container_statuses or [])
        ]

    def kill(self, name: str) -> None:
        """Delete a pod without a moment's grace."""
        self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    def ray(self, plural: str, name: str) -> dict[str, Any] | None:
        """A RayJob or RayCluster; None where there is none."""
        try:
            found: dict[str, Any] = self.custom.get_namespaced_custom_object(*RAY, self.namespace, plural, name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return found

    def rayjobs(self) -> list[dict[str, Any]]:
        """All RayJobs of the namespace."""
        return list(self.custom.list_namespaced_custom_object(*RAY, self.namespace, "rayjobs")["items"])

    def job_state(self, name: str) -> str:
        """``jobDeploymentStatus`` of a RayJob; empty before the operator saw it."""
        job = self.ray("rayjobs", name)
        return (job or {}).get("status", {}).get("jobDeploymentStatus", "")

    def job_cluster(self, name: str) -> str:
        """Name of the RayCluster that a RayJob runs on; empty before it is there."""
        job = self.ray("rayjobs", name)
        return (job or {}).get("status", {}).get("rayClusterName", "")

    def job_pods(self, name: str, role: str) -> list[Any]:
        """Ready pods of a RayJob's present cluster: ``head`` or ``worker``."""
        cluster = self.job_cluster(name)
        return self.running(f"{CLUSTER_LABEL}={cluster},{ROLE_LABEL}={role}") if cluster else []

    def wait_for_job(self, name: str, timeout_s: float, wanted: str = "Complete") -> dict[str, Any]:
        """The RayJob once it has ended as wanted; fails at once when it ended otherwise. Notes which kinds of pods became ready."""

        def ended() -> bool:
            self.note_roles(name)
            return self.job_state(name) in {"Complete", "Failed"}

        wait_until(f"RayJob {name} to end", ended, timeout_s)
        job = self.ray("rayjobs", name)
        assert job is not None
        assert self.job_state(name) == wanted, job["status"].get("message") or job["status"]
        return job

    def note_roles(self, name: str) -> None:
        """Remember which kinds of pods of a RayJob have become ready."""
        cluster = self.job_cluster(name)
        if not cluster:
            return
        for pod in self.running():
            labels = pod.metadata.labels or {}
            if labels.get(CLUSTER_LABEL) == cluster:
                self.roles_seen.add(labels[ROLE_LABEL])
            elif labels.get("job-name") == name:
                self.roles_seen.add("submitter")

    def delete_job(self, name: str, timeout_s: float = 120) -> None:
        """Delete a RayJob and wait until its pods are gone, so that the next test has the machine."""
        clusters = {self.job_cluster(name)} - {""}
        self.kubectl("delete", "rayjob", name, "--ignore-not-found", "--wait=false")
        wait_until(f"the pods of {name} to go", lambda: not self._pods_of(name, clusters), timeout_s)

    def _pods_of(self, name: str, clusters: set[str]) -> list[Any]:
        return [
            pod
            for pod in self.pods()
            if (pod.metadata.labels or {}).get(CLUSTER_LABEL) in clusters or (pod.metadata.labels or {}).get("job-name") == name
        ]

    @contextmanager
    def job(self, name: str) -> Iterator[str]:
        """A RayJob that is gone afterwards, whatever happened."""
        try:
            yield name
        except BaseException:
            self.last_picture = self.picture()
            with suppress(AssertionError):  # what went wrong first is what counts
                self.delete_job(name)
            raise
        self.delete_job(name)

    def picture(self) -> str:
        """What a person would look at first: pods, Ray's objects and the latest events."""
        parts = [
            self.kubectl("get", "pods", "-o", "wide", check=False),
            self.kubectl("get", "rayjobs,rayclusters", check=False),
            "\n".join(self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False).splitlines()[-25:]),
        ]
        talking = [
            pod.metadata.name
            for pod in self.pods()
            if (pod.metadata.labels or {}).get(ROLE_LABEL) == "head" or "job-name" in (pod.metadata.labels or {})
        ]
        parts += [f"--- {name}\n" + self.kubectl("logs", name, "--tail=30", check=False) for name in talking]
        return "\n".join(parts)
