"""Causes that hold a job up beside its pods, from the objects that show them to the sentence."""

from __future__ import annotations

from typing import Any

import pytest
from kube_objects import (
    JOB,
    NAMESPACE,
    RAY_CLUSTER,
    ago,
    container,
    event,
    operator,
    pod,
    raycluster,
    rayjob,
    ready,
    snapshot,
)

from bioie_ray.cluster.explain import Finding, explain, explain_refusal, queue_position
from bioie_ray.cluster.snapshot import Snapshot


def only(found: Snapshot) -> Finding:
    (finding,) = explain(found)
    return finding


def test_a_job_that_runs_has_nothing_to_explain() -> None:
    head = pod(phase="Running", containerStatuses=[container({"running": {"startedAt": ago(10)}}, ready=True)], conditions=[ready()])
    assert explain(snapshot(rayjob(jobDeploymentStatus="Running", jobStatus="RUNNING"), clusters=[raycluster()], pods=[head])) == []


def refused(message: str, reason: str = "FailedCreateHeadPod") -> Snapshot:
    condition = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": reason,
        "message": f'{reason}\npods "{RAY_CLUSTER}-head-abcde" is forbidden: {message}',
    }
    return snapshot(clusters=[raycluster(condition)])


def test_a_quota_that_others_use_up_is_waited_for() -> None:
    finding = only(
        refused(
            "exceeded quota: bioie, requested: limits.memory=8Gi,requests.cpu=2, used: limits.memory=250Gi,requests.cpu=63, limited: limits.memory=256Gi,requests.cpu=64"
        )
    )
    assert "the head pod is not created: the namespace's quota bioie is exceeded" in finding.sentence
    assert "8 GiB limits.memory more with 250 of 256 in use" in finding.sentence
    assert "2 requests.cpu more with 63 of 64 in use" in finding.sentence
    assert not finding.lasting


def test_a_quota_that_is_too_small_ever_is_not_waited_for() -> None:
    finding = only(refused("exceeded quota: bioie, requested: requests.cpu=68200m, used: requests.cpu=0, limited: requests.cpu=64"))
    assert "68.2 requests.cpu more with 0 of 64 in use" in finding.sentence
    assert finding.lasting
    assert "kubectl describe resourcequota bioie" in finding.next_step


@pytest.mark.parametrize(
    ("message", "cause", "step"),
    [
        ('violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "x" must set it)', "Pod Security level restricted:latest forbids it: allowPrivilegeEscalation", "bioie render"),
        ('error looking up service account bioie/bioie-head: serviceaccount "bioie-head" not found', "service account bioie-head is missing", "kubectl apply -k"),
        ("no PriorityClass with name urgent was found", "no PriorityClass urgent", "cluster.kube.priority_class"),
        ("failed quota: bioie: must specify limits.cpu for: ray-head; requests.cpu for: ray-head", "must specify limits.cpu", "quota changed"),
        ("maximum memory usage per Container is 4Gi, but limit is 8Gi", "maximum memory usage per Container is 4Gi, but limit is 8Gi", "cluster.kube.head"),
        ("unable to create new content in namespace bioie because it is being terminated", "is being deleted", "submit again"),
    ],
)  # fmt: skip
def test_admission_that_refuses(message: str, cause: str, step: str) -> None:
    finding = only(refused(message))
    assert finding.sentence.startswith("the head pod is not created: ")
    assert cause in finding.sentence
    assert step in finding.next_step
    assert finding.lasting


def test_what_the_operator_says_in_events_before_the_status() -> None:
    message = (
        "Failed to reconcile RayCluster bioie/x. If users specify ServiceAccountName for the head Pod, they need to create a ServiceAccount "
        "themselves. However, ServiceAccount bioie-head is not found. Please create one."
    )
    absent = event("RayCluster", RAY_CLUSTER, "AutoscalerServiceAccountNotFound", message)
    assert "its service account bioie-head is missing" in only(snapshot(clusters=[raycluster()], events=[absent])).sentence
    invalid = event(
        "RayJob",
        JOB,
        "InvalidRayJobSpec",
        f"{NAMESPACE}/{JOB}: The RayJob spec is invalid: BackoffLimit is incompatible with InteractiveMode",
    )
    finding = only(snapshot(rayjob(jobDeploymentStatus=""), events=[invalid]))
    assert (
        finding.sentence
        == "the KubeRay operator refuses the job: The RayJob spec is invalid: BackoffLimit is incompatible with InteractiveMode"
    )
    assert finding.final


def test_what_a_webhook_says_of_the_rayjob_itself() -> None:
    finding = explain_refusal(
        'admission webhook "vrayjob.kb.io" denied the request: spec.rayClusterSpec.enableInTreeAutoscaling: Invalid value: true: not supported',
        "the RayJob",
    )
    assert "the admission webhook vrayjob.kb.io refuses it: spec.rayClusterSpec.enableInTreeAutoscaling" in finding.sentence


def test_a_submitter_that_its_job_cannot_create() -> None:
    head = pod(phase="Running", containerStatuses=[container({"running": {"startedAt": ago(60)}}, ready=True)])
    failed = event(
        "Job",
        JOB,
        "FailedCreate",
        f'Error creating: pods "{JOB}-" is forbidden: exceeded quota: bioie, requested: pods=1, used: pods=100, limited: pods=100',
    )
    finding = only(snapshot(rayjob(jobDeploymentStatus="Running"), pods=[head], events=[failed]))
    assert "the submitter pod is not created" in finding.sentence
    assert "1 pods more with 100 of 100 in use" in finding.sentence


def test_what_goes_wrong_between_two_attempts_comes_right_by_itself() -> None:
    deletion = event(
        "RayJob", JOB, "FailedToDeleteRayJobSubmitter", f'Failed to delete submitter K8s Job bioie/{JOB}: jobs.batch "{JOB}" not found'
    )
    assert explain(snapshot(rayjob(jobDeploymentStatus="Retrying", failed=1), events=[deletion])) == []


def test_an_event_of_an_earlier_job_of_the_same_name_is_not_this_ones() -> None:
    old = event(
        "Job",
        JOB,
        "FailedCreate",
        "Error creating: exceeded quota: bioie, requested: pods=1, used: pods=100, limited: pods=100",
        age_s=4000,
    )
    assert explain(snapshot(rayjob(age_s=20), pods=[pod(phase="Running")], events=[old])) == []


@pytest.mark.parametrize(
    ("job", "operators", "cause"),
    [
        (rayjob(3, jobDeploymentStatus=""), [operator(0)], "scaled to 0"),
        (rayjob(12, jobDeploymentStatus=""), [operator(1, 0)], "is not ready"),
        (rayjob(12, jobDeploymentStatus=""), [operator(1, 1)], "has not looked at this job for 12 s"),
        (rayjob(12, jobDeploymentStatus=""), [], "no KubeRay operator"),
        (rayjob(12, jobDeploymentStatus=""), None, "you may not see"),
    ],
)
def test_an_operator_that_is_absent(job: dict[str, Any], operators: list[dict[str, Any]] | None, cause: str) -> None:
    finding = only(snapshot(job, operators=operators))
    assert cause in finding.sentence
    assert finding.lasting


def test_the_operator_has_ten_seconds() -> None:
    assert explain(snapshot(rayjob(4, jobDeploymentStatus=""), operators=[operator(1, 1)])) == []


QUEUED = {"kueue.x-k8s.io/queue-name": "small"}


def workload(
    name: str, *, created_s: float, priority: int = 0, reserved: bool = False, message: str = "", uid: str = "other"
) -> dict[str, Any]:
    condition = {"type": "QuotaReserved", "status": "True" if reserved else "False", "reason": "Pending", "message": message}
    return {
        "metadata": {"name": name, "creationTimestamp": ago(created_s), "ownerReferences": [{"kind": "RayJob", "uid": uid}]},
        "spec": {"queueName": "small", "priority": priority},
        "status": {"conditions": [condition]},
    }


def test_the_place_in_a_kueue_queue() -> None:
    message = "couldn't assign flavors to pod set head: insufficient unused quota for cpu in flavor default, 1 more needed"
    mine = workload("mine", created_s=10, message=message, uid="job-uid")
    others = [workload("runs", created_s=99, reserved=True), workload("older", created_s=50), workload("urgent", created_s=1, priority=100)]
    suspended = rayjob(spec={"suspend": True}, labels=QUEUED, jobDeploymentStatus="Suspended")
    finding = only(snapshot(suspended, workloads=[mine, *others]))
    assert finding.sentence == f"the job is number 3 of 3 waiting in the queue small: {message}"
    assert not finding.lasting
    assert queue_position(mine, [mine, *others]) == (3, 3)


def test_a_queue_that_is_not_there() -> None:
    mine = workload("mine", created_s=10, message="LocalQueue small doesn't exist", uid="job-uid")
    finding = only(snapshot(rayjob(spec={"suspend": True}, labels=QUEUED, jobDeploymentStatus="Suspended"), workloads=[mine]))
    assert "LocalQueue small doesn't exist" in finding.sentence
    assert finding.lasting


def test_a_queue_without_kueue() -> None:
    finding = only(snapshot(rayjob(spec={"suspend": True}, labels=QUEUED, jobDeploymentStatus="Suspended")))
    assert "the cluster has no Kueue" in finding.sentence
    assert "cluster.kube.profile=elastic" in finding.next_step


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "RayJob name should be no more than 47 characters"}, "operator refuses the job: RayJob name"),
        ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "x"}, "deadline of 3600 s"),
        ({"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed", "message": "Job submission has failed. Reason: BackoffLimitExceeded."}, "could not be handed to its Ray cluster"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "was stopped"),
        (
            {
                "jobDeploymentStatus": "Failed",
                "jobStatus": "FAILED",
                "reason": "AppFailed",
                "message": "Job entrypoint command failed with exit code 1, last available logs (truncated to 20,000 chars):\nTraceback\nerror: no such corpus",
            },
            "exit code 1, last available logs (truncated to 20,000 chars) (error: no such corpus)",
        ),
    ],
)  # fmt: skip
def test_how_a_job_ended(status: dict[str, Any], words: str) -> None:
    finding = only(snapshot(rayjob(**status)))
    assert words in finding.sentence
    assert finding.final


def test_a_job_that_succeeded_or_is_tried_again_has_not_failed() -> None:
    assert explain(snapshot(rayjob(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED"))) == []
    assert snapshot(rayjob(jobDeploymentStatus="Retrying", jobStatus="FAILED")).result is None
