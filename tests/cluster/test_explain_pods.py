"""Causes that pods show, from the objects that show them to the sentence."""

from __future__ import annotations

import pytest
from kube_objects import NAMESPACE, RAY_CLUSTER, ago, container, event, node, pod, raycluster, rayjob, snapshot, unschedulable, waiting

from bioie_ray.cluster.explain import Finding, explain
from bioie_ray.cluster.snapshot import Snapshot

RUNTIME = 'failed to pull and unpack image "localhost:5000/nope:1": failed to resolve reference "localhost:5000/nope:1": '


def only(found: Snapshot) -> Finding:
    (finding,) = explain(found)
    return finding


@pytest.mark.parametrize(
    ("reason", "message", "cause", "step", "lasting"),
    [
        ("ErrImagePull", f"rpc error: code = NotFound desc = {RUNTIME}localhost:5000/nope:1: not found", "no such image", "push_image.sh", True),
        ("ImagePullBackOff", f'Back-off pulling image "localhost:5000/nope:1": ErrImagePull: {RUNTIME}localhost:5000/nope:1: not found', "no such image", "cluster.kube.image", True),
        ("ErrImagePull", f"{RUNTIME}failed to do request: Head: dial tcp: lookup nowhere on 10.96.0.10:53: no such host", "not known to the node", "check the host", True),
        ("ErrImagePull", f"{RUNTIME}failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized", "credentials", "image_pull_secrets", True),
        ("ErrImagePull", f"{RUNTIME}http: server gave HTTP response to HTTPS client", "plain HTTP", "insecure registry", True),
        ("ErrImagePull", f"{RUNTIME}tls: failed to verify certificate: x509: certificate signed by unknown authority", "certificate", "CA", True),
        ("ErrImagePull", f"{RUNTIME}failed to do request: dial tcp 10.0.0.9:443: i/o timeout", "i/o timeout", "nodes reach the registry", False),
        ("ErrImageNeverPull", 'Container image "localhost:5000/nope:1" is not present with pull policy of Never', "may not be pulled", "IfNotPresent", True),
        ("InvalidImageName", "Failed to apply default image tag: couldn't parse image name", "not a valid image reference", "mend", True),
    ],
)  # fmt: skip
def test_an_image_that_cannot_be_pulled(reason: str, message: str, cause: str, step: str, lasting: bool) -> None:
    head = pod(containerStatuses=[container(waiting(reason, message), image="localhost:5000/nope:1")])
    finding = only(snapshot(pods=[head]))
    assert "the image localhost:5000/nope:1 of the head pod cannot be pulled" in finding.sentence
    assert cause in finding.sentence
    assert step in finding.next_step
    assert finding.lasting is lasting


def test_many_pods_with_one_cause_are_one_sentence() -> None:
    state = waiting("ImagePullBackOff", f"{RUNTIME}not found")
    pods = [pod("worker", initContainerStatuses=[container(state, name="wait-gcs-ready", image="localhost:5000/nope:1")]) for _ in range(5)]
    assert len(explain(snapshot(pods=[pod(containerStatuses=[container(state, image="localhost:5000/nope:1")]), *pods]))) == 1


def test_unschedulable_says_what_is_short_and_what_the_cluster_has() -> None:
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found."
    worker = pod("worker", requests={"cpu": "1", "nvidia.com/gpu": "8"}, conditions=[unschedulable(message)])
    busy = pod(
        "worker",
        phase="Running",
        requests={"nvidia.com/gpu": "3"},
        spec={"nodeName": "node-2", "containers": [{"name": "x", "resources": {"requests": {"nvidia.com/gpu": "3"}}}]},
    )
    finding = only(snapshot(pods=[worker], nodes=[node(cpu="4"), node("node-2", gpu="4", cpu="4")], all_pods=[busy, worker]))
    assert (
        finding.sentence
        == "a worker pod of group gpu finds no node: it needs 8 nvidia.com/gpu, and the cluster has 4 nvidia.com/gpu on its largest node, at most 1 nvidia.com/gpu of it free on any"
    )
    assert "cluster.kube.workers.gpu.gpus" in finding.next_step
    assert finding.lasting


def test_a_cluster_that_is_only_full_is_waited_for() -> None:
    head = pod(requests={"cpu": "2", "memory": "8Gi"}, conditions=[unschedulable("0/1 nodes are available: 1 Insufficient cpu.")])
    other = pod(
        "worker", phase="Running", spec={"nodeName": "node-1", "containers": [{"name": "x", "resources": {"requests": {"cpu": "3500m"}}}]}
    )
    finding = only(snapshot(pods=[head], nodes=[node(cpu="4", memory="32Gi")], all_pods=[other]))
    assert "it needs 2 cpu, and the cluster has 4 cpu on its largest node, at most 0.5 cpu of it free on any" in finding.sentence
    assert "cluster.kube.head.cpus" in finding.next_step
    assert not finding.lasting


def test_a_node_that_is_being_added_is_waited_for() -> None:
    head = pod(requests={"cpu": "64"}, conditions=[unschedulable("0/1 nodes are available: 1 Insufficient cpu.")])
    growing = event("Pod", head["metadata"]["name"], "TriggeredScaleUp", "pod triggered scale-up: [{pool 1->2 (max: 8)}]", type="Normal")
    finding = only(snapshot(pods=[head], nodes=[node(cpu="4")], all_pods=[], events=[growing]))
    assert not finding.lasting
    assert "a node is being added" in finding.next_step


@pytest.mark.parametrize(
    ("message", "cause", "lasting"),
    [
        (
            '0/1 nodes are available: persistentvolumeclaim "bioie-store" not found.',
            "PersistentVolumeClaim bioie-store does not exist",
            True,
        ),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "not bound", False),
        ("0/3 nodes are available: 3 node(s) had untolerated taint {nvidia.com/gpu: present}.", "taint nvidia.com/gpu: present", True),
        ("0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.", "node selector", True),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", "cordoned", False),
        ("0/1 nodes are available: 1 Too many pods.", "as many pods as they may", False),
        ("no nodes available to schedule pods", "no node", False),
        ("0/1 nodes are available: 1 something new. preemption: nothing", "something new", False),
    ],
)
def test_other_reasons_of_the_scheduler(message: str, cause: str, lasting: bool) -> None:
    finding = only(snapshot(pods=[pod(conditions=[unschedulable(message)])], nodes=[], all_pods=[]))
    assert finding.sentence.startswith("the head pod finds no node: ")
    assert cause in finding.sentence
    assert finding.lasting is lasting


def test_configuration_that_is_missing() -> None:
    secret = pod(containerStatuses=[container(waiting("CreateContainerConfigError", 'secret "bioie-storage" not found'))])
    finding = only(snapshot(pods=[secret]))
    assert finding.sentence == f"the head pod cannot start: the Secret bioie-storage does not exist in the namespace {NAMESPACE}"
    assert f"kubectl -n {NAMESPACE} create secret generic bioie-storage" in finding.next_step
    assert finding.lasting
    key = pod(containerStatuses=[container(waiting("CreateContainerConfigError", "couldn't find key store in ConfigMap bioie/bioie-site"))])
    assert "has no key store" in only(snapshot(pods=[key])).sentence


def test_a_config_map_that_a_volume_needs_shows_only_in_events() -> None:
    starting = pod(containerStatuses=[container(waiting("ContainerCreating"))])
    failed = event(
        "Pod", starting["metadata"]["name"], "FailedMount", 'MountVolume.SetUp failed for volume "ca" : configmap "private-ca" not found'
    )
    finding = only(snapshot(pods=[starting], events=[failed]))
    assert "the ConfigMap private-ca does not exist" in finding.sentence
    assert "cluster.kube.ca_config_map" in finding.next_step


def test_a_crash_loop() -> None:
    state = container(
        waiting("CrashLoopBackOff", "back-off 40s restarting failed container"),
        restartCount=4,
        lastState={"terminated": {"exitCode": 1, "reason": "Error"}},
    )
    finding = only(snapshot(pods=[pod(phase="Running", containerStatuses=[state])]))
    assert "crashes again and again: its container ray-head ended 4 times, last with exit code 1" in finding.sentence
    assert "--previous" in finding.next_step
    assert finding.lasting


def test_out_of_memory_with_the_limit() -> None:
    state = container({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, name="ray-worker")
    finding = only(snapshot(pods=[pod("worker", phase="Failed", containerStatuses=[state])]))
    assert (
        finding.sentence
        == "a worker pod of group gpu was killed for memory: its container ray-worker went over its limit of 8 GiB (OOMKilled)"
    )
    assert "cluster.kube.workers.gpu.memory_gib" in finding.next_step


def test_out_of_memory_of_a_pod_that_the_operator_has_taken_away() -> None:
    message = (
        f"Deleted worker Pod {NAMESPACE}/{RAY_CLUSTER}-gpu-worker-abcde; Pod status: Failed; Pod restart policy: Never; Ray container terminated status: "
        "&ContainerStateTerminated{ExitCode:137,Signal:0,Reason:OOMKilled,Message:,StartedAt:2026-03-01 11:59:00 +0000 UTC,FinishedAt:2026-03-01 12:00:00 +0000 UTC,ContainerID:containerd://1,}"
    )
    template = {"spec": {"containers": [{"name": "ray-worker", "resources": {"limits": {"memory": "16Gi"}}}]}}
    job = rayjob(spec={"rayClusterSpec": {"workerGroupSpecs": [{"groupName": "gpu", "template": template}]}})
    deleted = event("RayCluster", RAY_CLUSTER, "DeletedWorkerPod", message, type="Normal")
    finding = only(snapshot(job, clusters=[raycluster()], pods=[pod(phase="Running")], events=[deleted]))
    assert "over its limit of 16 GiB (OOMKilled)" in finding.sentence


def test_a_head_that_ends_again_and_again_is_counted_from_events() -> None:
    message = (
        f"Deleted head Pod {NAMESPACE}/{RAY_CLUSTER}-head-abcde; Pod status: Failed; Pod restart policy: Never; Ray container terminated status: "
        "&ContainerStateTerminated{ExitCode:1,Signal:0,Reason:Error,Message:,StartedAt:x,}"
    )
    deleted = event("RayCluster", RAY_CLUSTER, "DeletedHeadPod", message, type="Normal", count=3)
    finding = only(snapshot(clusters=[raycluster()], pods=[pod()], events=[deleted]))
    assert "ended with exit code 1 and was replaced, 3 times so far" in finding.sentence
    assert finding.lasting


def test_an_image_without_a_shell() -> None:
    message = 'failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "/bin/bash": stat /bin/bash: no such file or directory'
    state = container({"terminated": {"exitCode": 128, "reason": "StartError", "message": message}})
    finding = only(snapshot(pods=[pod(phase="Failed", containerStatuses=[state])]))
    assert finding.sentence == 'the head pod cannot start: exec: "/bin/bash": stat /bin/bash: no such file or directory'


def test_an_eviction_names_the_disk() -> None:
    evicted = pod(
        "worker", phase="Failed", reason="Evicted", message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "
    )
    finding = only(snapshot(pods=[evicted]))
    assert "exceeds the total limit of containers 1Gi" in finding.sentence
    assert "cluster.kube.workers.gpu.spill_gib" in finding.next_step


def test_a_head_that_runs_but_is_not_ready_for_long() -> None:
    slow = pod(phase="Running", containerStatuses=[container({"running": {"startedAt": ago(120)}})])
    probe = event("Pod", slow["metadata"]["name"], "Unhealthy", "Readiness probe failed: bash: line 1: wget: command not found")
    finding = only(snapshot(pods=[slow], events=[probe]))
    assert "runs but is not ready after 120 s: Readiness probe failed: bash: line 1: wget: command not found" in finding.sentence
    assert explain(snapshot(pods=[pod(phase="Running", containerStatuses=[container({"running": {"startedAt": ago(20)}})])])) == []


def test_a_pod_on_a_node_that_does_not_answer() -> None:
    lost = pod("worker", phase="Running", metadata={"deletionTimestamp": ago(40)}, spec={"nodeName": "node-2"})
    assert "its node node-2 does not say so" in only(snapshot(pods=[lost])).sentence
