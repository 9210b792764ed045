"""How many actors are asked for, and what is said where there is no place for them."""

from __future__ import annotations

from typing import Any

import pytest

from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.execution import ray_cluster
from bioie_ray.execution.ray_cluster import ClusterError, actor_resources, nodes, pool_size, shortage
from bioie_ray.execution.units import WorkerSpec

HEAD = {"node:__internal_head__": 1.0, "memory": 1e9}


def node(name: str, resources: dict[str, float], group: str | None = None, *, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources, "Labels": {"ray.io/node-group": group} if group else {}}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A fake of what Ray says of its nodes: a cluster with three of them cannot be had here."""
    found: list[dict[str, Any]] = []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(ray_cluster.ray, "nodes", lambda: found)
    return found


def size(num_units: int = 100, *, threads: int = 1, uses_gpu: bool = True, **settings: Any) -> int:
    return pool_size(WorkerSpec(object, threads=threads, uses_gpu=uses_gpu), ClusterSettings(**settings), num_units)  # type: ignore[arg-type]


def test_the_number_asked_for_is_taken_whatever_is_up_but_never_more_than_units(cluster: list[dict[str, Any]]) -> None:
    cluster.append(node("h", HEAD))
    assert size(num_workers=7) == 7
    assert size(3, num_workers=7) == 3


def test_else_it_is_what_the_nodes_hold(cluster: list[dict[str, Any]]) -> None:
    cluster += [node("h", {**HEAD, "CPU": 2.0}), node("w", {"CPU": 5.0, "GPU": 3.0}), node("dead", {"CPU": 64.0}, alive=False)]
    assert size() == 7
    assert size(threads=2) == 3  # a worker does not span nodes
    assert size(gpus_per_worker=2) == 1
    assert size(gpus_per_worker=0.5) == 6
    assert size(gpus_per_worker=0.5, uses_gpu=False) == 7


def test_a_head_without_cpus_means_nodes_that_come_when_asked_for(cluster: list[dict[str, Any]]) -> None:
    cluster.append(node("h", HEAD, "headgroup"))
    groups = {"cpu": {"cpus": 4, "max_replicas": 3}, "gpu": {"cpus": 8, "gpus": 2, "max_replicas": 5}}
    assert size(kube={"workers": groups}) == 12  # pods with GPUs are not started for work that needs none
    assert size(kube={"workers": groups}, threads=3) == 3
    assert size(kube={"workers": groups}, gpus_per_worker=1) == 10
    assert size(kube={"workers": groups}, gpus_per_worker=1, uses_gpu=False) == 12  # it stays out of them, and reserves none
    assert (
        size(num_workers=30, kube={"workers": groups}, gpus_per_worker=1, uses_gpu=False) == 12
    )  # nor by a number that was meant for others
    assert size(num_workers=30, kube={"workers": groups}, gpus_per_worker=1) == 30
    assert size(kube={"workers": {"gpu": groups["gpu"]}}, gpus_per_worker=1, uses_gpu=False) == 40  # unless there are no others
    assert size(kube={"workers": groups}, gpus_per_worker=1, uses_gpu=False, threads=6) == 5  # or none that can hold it
    assert size(2, kube={"workers": groups}) == 2
    assert size(kube={"workers": {"cpu": {}}}, gpus_per_worker=1) == 1  # asked for all the same; the deadline tells
    cluster.append(node("w", {"CPU": 64.0}))
    assert size(kube={"workers": groups}) == 64


def test_groups_go_by_the_operators_label(cluster: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster += [node("h", HEAD, "headgroup"), node("w", {"CPU": 4.0}, "cpu"), node("x", {"CPU": 1.0})]
    assert [(found.id, found.group, found.cpus) for found in nodes()] == [("h", "head", 0), ("w", "cpu", 4), ("x", "workers", 1)]
    monkeypatch.delenv("RAY_ADDRESS")
    assert {found.group for found in nodes()} == {"local"}


def test_a_shortage_is_said_in_numbers(cluster: list[dict[str, Any]]) -> None:
    cluster += [node("h", HEAD, "headgroup"), node("w", {"CPU": 4.0}, "cpu")]
    half = ClusterSettings(gpus_per_worker=0.5, memory_per_worker_gib=8)
    assert shortage(3, WorkerSpec(object, threads=2, uses_gpu=True), half) == (  # type: ignore[arg-type]
        "asked for 3 workers of 2 CPUs and 0.5 GPUs, with 8 GiB each; nodes that are up: head: 0 CPUs, 0 GPUs, cpu: 4 CPUs, 0 GPUs"
    )
    assert shortage(3, WorkerSpec(object, threads=2), half).startswith("asked for 3 workers of 2 CPUs, with 8 GiB each;")  # type: ignore[arg-type]


def test_an_actor_reserves_a_gpu_only_where_it_runs_a_model() -> None:
    half = ClusterSettings(gpus_per_worker=0.5)
    assert actor_resources(WorkerSpec(object, uses_gpu=True), half)["num_gpus"] == 0.5  # type: ignore[arg-type]
    assert actor_resources(WorkerSpec(object), half)["num_gpus"] is None  # type: ignore[arg-type]


def test_gpus_on_a_machine_without_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster.ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ClusterError, match="gpus_per_worker is 1, but this machine has 0 GPUs that Ray sees; set it to 0"):
        size(gpus_per_worker=1, num_workers=1)
    assert size(gpus_per_worker=1, num_workers=1, uses_gpu=False) == 1
