"""Quantities, what pods ask for, and what nodes have left."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kube_objects import node, pod

from bioie_ray.cluster.capacity import explain_unschedulable, node_capacities, parse_quantity, pod_requests, show_amount


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("200m", 0.2), ("68200m", 68.2), ("16Gi", 16 * 2**30), ("5888Mi", 5888 * 2**20), ("1k", 1000), ("1M", 1e6), ("1e3", 1000), ("0.5", 0.5), ("12Ki", 12288), (4, 4)],
)  # fmt: skip
def test_quantities(text: str, value: float) -> None:
    assert parse_quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "Gi", "1Qi", "one", "1 Gi", "1mi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is not a Kubernetes quantity"):
        parse_quantity(text)


@given(st.integers(0, 10**6), st.sampled_from(["Ki", "Mi", "Gi", "k", "M", "G", "m", ""]))
def test_quantities_are_linear(number: int, suffix: str) -> None:
    assert parse_quantity(f"{number}{suffix}") == pytest.approx(number * parse_quantity(f"1{suffix}"))


def test_amounts_as_people_write_them() -> None:
    assert show_amount("cpu", 2.5) == "2.5 cpu"
    assert show_amount("memory", 16 * 2**30) == "16 GiB memory"
    assert show_amount("memory", 256 * 2**20) == "256 MiB memory"
    assert show_amount("nvidia.com/gpu", 4.0) == "4 nvidia.com/gpu"


def limits(**amounts: str) -> dict[str, object]:
    return {"name": "x", "resources": {"requests": amounts}}


def test_a_pod_asks_for_its_containers_or_for_its_largest_init_container() -> None:
    spec = {
        "containers": [limits(cpu="1", memory="1Gi"), limits(cpu="500m")],
        "initContainers": [limits(cpu="200m", memory="4Gi"), {**limits(cpu="1"), "restartPolicy": "Always"}, limits(cpu="3")],
        "overhead": {"cpu": "250m"},
    }
    # containers 1.5 and the sidecar's 1; the last init container runs beside the sidecar, 4 in all, which is more
    assert pod_requests({"spec": spec}) == pytest.approx({"cpu": 4.25, "memory": 4 * 2**30})


def test_a_limit_without_a_request_is_its_request() -> None:
    assert pod_requests({"spec": {"containers": [{"name": "x", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]}}) == {
        "nvidia.com/gpu": 2
    }


def test_finished_pods_take_nothing_and_cordoned_or_silent_nodes_give_nothing() -> None:
    running = pod(phase="Running", spec={"nodeName": "node-1", "containers": [limits(cpu="1")]})
    finished = pod(phase="Succeeded", spec={"nodeName": "node-1", "containers": [limits(cpu="3")]})
    waits = pod(spec={"containers": [limits(cpu="3")]})
    nodes = [node(cpu="4"), node("node-2", cpu="4", spec={"unschedulable": True}), node("node-3", cpu="4", is_ready="Unknown")]
    capacities = node_capacities(nodes, [running, finished, waits])
    assert [(found.name, found.usable, found.free["cpu"]) for found in capacities] == [
        ("node-1", True, 3.0),
        ("node-2", False, 4.0),
        ("node-3", False, 4.0),
    ]


def test_without_the_right_to_read_nodes_there_are_no_numbers() -> None:
    found = explain_unschedulable(pod(), "0/3 nodes are available: 3 Insufficient memory.", None, None, "cluster.kube.head")
    assert "it needs 8 GiB memory, and no node has that free" in found.sentence
    assert not found.lasting


def test_several_resources_are_each_named() -> None:
    waits = pod(requests={"cpu": "8", "memory": "64Gi"})
    found = explain_unschedulable(
        waits,
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
        [node(cpu="4", memory="16Gi")],
        [],
        "cluster.kube.head",
    )
    assert found.sentence.startswith("it needs 8 cpu and 64 GiB memory, and the cluster has 4 cpu on its largest node")
    assert "16 GiB memory on its largest node" in found.sentence
    assert "cluster.kube.head.cpus or cluster.kube.head.memory_gib" in found.next_step
    assert found.lasting
