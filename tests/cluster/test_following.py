"""What a person sees while a job waits, and when the waiting ends."""

from __future__ import annotations

import pytest
from fake_api_server import FakeApiServer, Reply, fake_api_server
from kube_objects import JOB, NAMESPACE, RAY_CLUSTER, container, pod, rayjob, ready, snapshot, waiting

from bioie_ray.cluster import follow
from bioie_ray.cluster.explain import Finding
from bioie_ray.cluster.follow import Watch, describe, follow_job
from bioie_ray.cluster.status import job_facts, show_duration

SHORT = Finding("quota", "the quota is used up", "wait")
LASTING = Finding("image", "no such image", "push it", lasting=True)
FINAL = Finding("failed", "it failed", "look", final=True)


def test_a_cause_is_said_once_and_one_that_lasts_ends_the_waiting_after_the_patience() -> None:
    watch = Watch(patience_s=60)
    assert watch.look([LASTING], 0) == ([LASTING], None)
    assert watch.look([LASTING, SHORT], 30) == ([SHORT], None)
    assert watch.look([], 45) == ([], None)  # out of sight for a moment, as pods are that crash and come again
    assert watch.look([LASTING], 59) == ([], None)
    assert watch.look([LASTING], 60) == ([], LASTING)


def test_a_cause_that_went_away_is_news_when_it_comes_back() -> None:
    watch = Watch(patience_s=60)
    watch.look([LASTING], 0)
    assert watch.look([], 30) == ([], None)
    assert watch.look([LASTING], 61) == ([LASTING], None)


def test_what_may_come_right_is_waited_for_and_what_is_over_is_not() -> None:
    watch = Watch(patience_s=1)
    assert watch.look([SHORT], 0) == ([SHORT], None)
    assert watch.look([SHORT], 15) == ([], None)
    assert watch.look([FINAL], 16) == ([FINAL], FINAL)


def test_where_a_job_stands_in_a_few_words() -> None:
    workers = [
        pod("worker", phase="Running", containerStatuses=[container({"running": {}}, ready=True)], conditions=[ready()]) for _ in range(3)
    ]
    head = pod(containerStatuses=[container(waiting("ErrImagePull"))])
    found = describe(snapshot(rayjob(failed=1), pods=[head, *workers]))
    assert found == "Initializing, 1 failed before; head pod ImagePullBackOff, worker pod of group gpu Running x3"
    assert describe(snapshot(rayjob(jobDeploymentStatus=""))) == "not looked at yet; no pods"


def test_the_facts_of_a_job_are_plain_json() -> None:
    head = pod(
        containerStatuses=[container(waiting("CreateContainerConfigError", 'secret "bioie-storage" not found'))],
        spec={"nodeName": "node-1"},
    )
    facts = job_facts(snapshot(rayjob(labels={"bioie/recipe": "demo", "bioie/job": "embed"}), pods=[head]))
    assert (facts["recipe"], facts["job"], facts["phase"], facts["result"]) == ("demo", "embed", "Initializing", None)
    assert facts["pods"][0]["state"] == "CreateContainerConfigError"
    assert facts["findings"][0]["lasting"] is True


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0, "0s"), (119, "119s"), (120, "2m"), (7_199, "120m"), (7_200, "2h"), (172_800, "2d")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert show_duration(seconds) == text


def serve(fake: FakeApiServer, *jobs: Reply) -> None:
    """The job's states one after the other (the last one stays), and a driver's log."""
    replies = iter(jobs)
    last = jobs[-1]
    base, ray = f"/api/v1/namespaces/{NAMESPACE}/pods", f"/apis/ray.io/v1/namespaces/{NAMESPACE}"
    driver = pod("submitter", phase="Succeeded", containerStatuses=[container({"terminated": {"exitCode": 0}}, name="ray-job-submitter")])
    fake.routes[f"{ray}/rayjobs/{JOB}"] = lambda _query: next(replies, last)
    fake.routes[f"{ray}/rayclusters"] = lambda _query: Reply({"items": [{"metadata": {"name": RAY_CLUSTER}}]})
    fake.routes[base] = lambda query: Reply({"items": [driver] if "job-name" in query["labelSelector"] else []})
    fake.routes[f"{base}/{driver['metadata']['name']}"] = lambda _query: Reply(driver)
    fake.routes[f"{base}/{driver['metadata']['name']}/log"] = lambda _query: Reply(chunks=[b"2026-03-01T12:00:00.0Z the driver's words\n"])
    for path in (f"/api/v1/namespaces/{NAMESPACE}/events", "/apis/apps/v1/deployments"):
        fake.routes[path] = lambda _query: Reply({"items": []})


BUSY = Reply({"kind": "Status", "reason": "ServiceUnavailable", "message": "etcd leader changed"}, 503)


def test_the_result_is_the_exit_code_through_an_api_server_that_is_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_POLL_S", 0.05)
    said: list[str] = []
    with fake_api_server() as fake:
        serve(
            fake,
            Reply(rayjob(jobDeploymentStatus="Running")),
            BUSY,
            BUSY,
            Reply(rayjob(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")),
        )
        assert follow_job(fake.cluster(), NAMESPACE, JOB, timeout_s=30, say=said.append) == 0
    assert capsys.readouterr().out == "the driver's words\n"
    assert said[-1].startswith(f"{JOB}: SUCCEEDED after ")
    assert any("etcd leader changed" in line for line in said)


def test_a_failure_is_explained_last_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_POLL_S", 0.05)
    said: list[str] = []
    failed = rayjob(
        jobDeploymentStatus="Failed",
        jobStatus="FAILED",
        reason="AppFailed",
        message="Job entrypoint command failed with exit code 1",
        failed=3,
    )
    with fake_api_server() as fake:
        serve(fake, Reply(failed))
        assert follow_job(fake.cluster(), NAMESPACE, JOB, timeout_s=30, say=said.append) == 1
    assert "exit code 1" in said[0]
    assert said[1].startswith(f"{JOB}: FAILED after ")
    assert said[1].endswith("3 attempts failed")


def test_the_deadline_ends_the_following_and_there_is_never_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_HEARTBEAT_S", 0.3)
    said: list[str] = []
    with fake_api_server() as fake:
        serve(fake, Reply(rayjob(jobDeploymentStatus="Running")))
        assert follow_job(fake.cluster(), NAMESPACE, JOB, timeout_s=2, say=said.append) == 1
    assert len(said) >= 4
    assert "stopped following after 2 s (--timeout); the job goes on" in said[-1]


def test_a_job_that_someone_deletes_is_not_waited_for() -> None:
    said: list[str] = []
    with fake_api_server() as fake:
        serve(fake, Reply({"kind": "Status", "reason": "NotFound", "message": "not found"}, 404))
        assert follow_job(fake.cluster(), NAMESPACE, JOB, timeout_s=30, say=said.append) == 1
    assert "is gone" in said[-1]
