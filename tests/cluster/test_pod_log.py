"""Logs through broken connections and replaced pods: every line once, none lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fake_api_server import FakeApiServer, Query, Reply, fake_api_server
from hypothesis import given
from hypothesis import strategies as st
from kube_objects import JOB, NAMESPACE, RAY_CLUSTER, pod, rayjob

from bioie_ray.cluster.api import ApiError, UnreachableError
from bioie_ray.cluster.job_logs import DRIVER, JobLogs
from bioie_ray.cluster.pod_log import DriverLines, LogLine, SeenLines, follow_container

POD = f"/api/v1/namespaces/{NAMESPACE}/pods/p"


@pytest.fixture
def fake() -> Iterator[FakeApiServer]:
    with fake_api_server() as server:
        yield server


def stamped(second: float, text: str) -> bytes:
    return f"2026-03-01T12:00:{second:012.9f}Z {text}\n".encode()


def since(query: Query, lines: list[bytes]) -> list[bytes]:
    """What a kubelet gives for `sinceTime`: whole seconds, that second included."""
    start = query.get("sinceTime", "")
    return [line for line in lines if line[:19].decode() >= start[:19]]


def ended(name: str = "x") -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": {"containerStatuses": [{"name": name, "state": {"terminated": {"exitCode": 0}}}]}}


def test_a_connection_that_breaks_in_the_middle_of_a_line_loses_and_repeats_nothing(fake: FakeApiServer) -> None:
    lines = [
        stamped(0.1, "one"),
        stamped(0.2, "two"),
        stamped(0.2, "two"),
        stamped(5.0, "three"),
        stamped(5.0, "four"),
        stamped(9.5, "five"),
    ]
    breaks = iter([Reply(chunks=[b"".join(lines[:4]) + lines[4][:20]], reset=True), Reply(chunks=[lines[3], lines[4][:-3]], reset=True)])
    fake.routes[f"{POD}/log"] = lambda query: next(breaks, None) or Reply(chunks=since(query, lines))
    fake.routes[POD] = lambda _query: Reply(ended())
    told: list[str] = []
    found = list(follow_container(fake.cluster(), NAMESPACE, "p", "x", on_break=told.append))
    assert found == ["one", "two", "two", "three", "four", "five"]
    assert len(told) == 2
    assert [query.get("sinceTime") for _, path, query in fake.requests if path.endswith("/log")][1:3] == ["2026-03-01T12:00:03Z"] * 2


def test_a_stream_that_ends_while_the_container_runs_is_opened_again(fake: FakeApiServer) -> None:
    lines = [stamped(n, f"line {n}") for n in range(6)]
    visible = iter([2, 4, 6])
    states = iter([{"running": {}}, {"running": {}}])
    fake.routes[f"{POD}/log"] = lambda query: Reply(chunks=since(query, lines[: next(visible, 6)]))
    fake.routes[POD] = lambda _query: Reply(
        {"metadata": {}, "status": {"containerStatuses": [{"name": "x", "state": next(states, {"terminated": {}})}]}}
    )
    assert list(follow_container(fake.cluster(), NAMESPACE, "p", "x")) == [f"line {n}" for n in range(6)]


def test_without_follow_it_is_read_once(fake: FakeApiServer) -> None:
    fake.routes[f"{POD}/log"] = lambda _query: Reply(chunks=[stamped(1, "a"), stamped(2, "b")])
    assert list(follow_container(fake.cluster(), NAMESPACE, "p", "x", follow=False, tail=2)) == ["a", "b"]
    ((_, _, query),) = fake.requests
    assert (query["tailLines"], query["follow"]) == ("2", "false")


def test_a_log_that_may_not_be_read_is_an_error_that_says_so(fake: FakeApiServer) -> None:
    message = 'pods "p" is forbidden: User "eve" cannot get resource "pods/log" in API group "" in the namespace "bioie"'
    fake.routes[f"{POD}/log"] = lambda _query: Reply({"kind": "Status", "reason": "Forbidden", "message": message, "code": 403}, 403)
    with pytest.raises(ApiError, match=r"you may not read .* bioie-client"):
        list(follow_container(fake.cluster(), NAMESPACE, "p", "x"))


def test_a_pod_that_goes_away_ends_its_log(fake: FakeApiServer) -> None:
    replies = iter([Reply(chunks=[stamped(1, "last words")], reset=True)])
    gone = Reply({"kind": "Status", "reason": "NotFound", "message": 'pods "p" not found', "code": 404}, 404)
    fake.routes[f"{POD}/log"] = lambda _query: next(replies, gone)
    assert list(follow_container(fake.cluster(), NAMESPACE, "p", "x")) == ["last words"]


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from("abc")), max_size=40), st.data())
def test_reading_again_from_any_point_gives_each_line_once(items: list[tuple[int, str]], data: st.DataObject) -> None:
    """Time stamps in tenths of a second, in order, equal lines among them; cut anywhere, read again as the kubelet would."""
    lines = [LogLine(f"2026-03-01T12:00:{tenths // 10:02d}.{tenths % 10}00000000Z", text) for tenths, text in sorted(items)]
    seen = SeenLines()
    given_lines: list[LogLine] = []
    for _ in range(4):
        start = seen.since()
        readable = lines if start is None else [line for line in lines if line.stamp[:19] >= start[:19]]
        for line in readable[: data.draw(st.integers(0, len(readable)))]:
            if seen.is_new(line):
                given_lines.append(line)  # noqa: PERF401
    start = seen.since()
    given_lines += [line for line in lines if (start is None or line.stamp[:19] >= start[:19]) and seen.is_new(line)]
    assert given_lines == lines


def test_a_new_submitter_begins_the_drivers_log_anew_and_only_the_rest_is_given() -> None:
    driver = DriverLines()
    first = ["Job submitted", "step 1", "step 1", "step 2", "websocket closed"]
    assert [text for text in first if driver.is_new(text)] == first
    driver.restart()
    second = ["Running: ray job logs", "step 1", "step 1", "step 2", "step 3", "step 3"]
    assert [text for text in second if driver.is_new(text)] == ["Running: ray job logs", "step 3", "step 3"]
    driver.restart()
    third = ["Running: ray job logs", "step 1", "step 1", "step 2", "step 3", "step 3", "step 4"]
    assert [text for text in third if driver.is_new(text)] == ["step 4"]


def submitter(name: str, created: str, job_id: str) -> dict[str, Any]:
    environment = [{"name": "RAY_JOB_SUBMISSION_ID", "value": job_id}]
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": {"batch.kubernetes.io/job-name": JOB}, "creationTimestamp": created},
        "spec": {"containers": [{"name": "x", "env": environment}]},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "x", "state": {"terminated": {"exitCode": 1}}}]},
    }


def drain(logs: JobLogs) -> list[tuple[str, str]]:
    found = []
    while not logs.is_done:
        line = logs.next(0.2)
        if line is not None:
            found.append((line.source, line.text))
    logs.check()
    return found


def test_the_driver_through_two_submitters_and_a_second_attempt(fake: FakeApiServer) -> None:
    pods = [
        submitter("one", "2026-03-01T12:00:00Z", "job-1"),
        submitter("two", "2026-03-01T12:01:00Z", "job-1"),
        submitter("three", "2026-03-01T12:02:00Z", "job-2"),
    ]
    texts = {"one": ["a", "b"], "two": ["a", "b", "c"], "three": ["a", "b", "c", "d"]}
    base = f"/api/v1/namespaces/{NAMESPACE}/pods"
    for item in pods:
        name = item["metadata"]["name"]
        lines = [stamped(n, text) for n, text in enumerate(texts[name])]
        fake.routes[f"{base}/{name}/log"] = lambda query, lines=lines: Reply(chunks=since(query, lines))
        fake.routes[f"{base}/{name}"] = lambda _query, item=item: Reply(item)
    ray = f"/apis/ray.io/v1/namespaces/{NAMESPACE}"
    fake.routes[base] = lambda query: Reply({"items": pods if "job-name" in query["labelSelector"] else []})
    fake.routes[f"{ray}/rayclusters"] = lambda _query: Reply({"items": []})
    fake.routes[f"{ray}/rayjobs/{JOB}"] = lambda _query: Reply(rayjob(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED"))
    logs = JobLogs(fake.cluster(), NAMESPACE, JOB, follow=True)
    logs.start()
    assert drain(logs) == [(DRIVER, text) for text in ["a", "b", "c", "a", "b", "c", "d"]]


def test_the_logs_of_workers_carry_their_pods_names(fake: FakeApiServer) -> None:
    workers = []
    base = f"/api/v1/namespaces/{NAMESPACE}/pods"
    for name in ("w1", "w2"):
        worker = pod(
            "worker",
            phase="Succeeded",
            metadata={"name": name, "uid": name, "labels": {"ray.io/cluster": RAY_CLUSTER, "ray.io/node-type": "worker"}},
        )
        worker["status"]["containerStatuses"] = [{"name": "ray-worker", "state": {"terminated": {}}}]
        workers.append(worker)
        fake.routes[f"{base}/{name}/log"] = lambda _query, name=name: Reply(chunks=[stamped(1, f"hello of {name}")])
    ray = f"/apis/ray.io/v1/namespaces/{NAMESPACE}"
    fake.routes[base] = lambda query: Reply({"items": workers if "ray.io/cluster" in query["labelSelector"] else []})
    fake.routes[f"{ray}/rayclusters"] = lambda _query: Reply({"items": [{"metadata": {"name": RAY_CLUSTER}}]})
    fake.routes[f"{ray}/rayjobs/{JOB}"] = lambda _query: Reply(rayjob(jobDeploymentStatus="Complete"))
    logs = JobLogs(fake.cluster(), NAMESPACE, JOB, follow=False, driver=False, pods=True)
    logs.start()
    assert sorted(drain(logs)) == [("w1", "hello of w1"), ("w2", "hello of w2")]


def test_an_answer_that_is_no_json_says_so(fake: FakeApiServer) -> None:
    fake.routes["/version"] = lambda _query: Reply(b"<html>login</html>")
    with pytest.raises(ValueError, match="is it a Kubernetes API server"):
        fake.cluster().get("/version")


def test_a_server_that_is_overloaded_is_worth_another_try(fake: FakeApiServer) -> None:
    fake.routes["/version"] = lambda _query: Reply({"kind": "Status", "message": "too many requests", "reason": "TooManyRequests"}, 429)
    with pytest.raises(UnreachableError, match="cannot answer now"):
        fake.cluster().get("/version")


def test_all_pages_of_a_list(fake: FakeApiServer) -> None:
    pages = {"": {"items": [{"n": 1}], "metadata": {"continue": "next"}}, "next": {"items": [{"n": 2}], "metadata": {}}}
    fake.routes["/api/v1/nodes"] = lambda query: Reply(pages[query.get("continue", "")])
    assert fake.cluster().items("/api/v1/nodes") == [{"n": 1}, {"n": 2}]
