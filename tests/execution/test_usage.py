"""What a run used: seconds by group as nodes come and go, peaks, retries."""

from __future__ import annotations

import time

import pytest

from bioie_ray.execution import usage
from bioie_ray.execution.usage import Meter, Node, Retries, memory_peaks_mib


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(usage.time, "monotonic", made)
    return made


HEAD = Node("h", "head", 0.0, 0.0)
CPU = Node("c", "cpu", 4.0, 0.0)
GPUS = [Node("g1", "gpu", 8.0, 2.0), Node("g2", "gpu", 8.0, 2.0)]


def test_seconds_are_those_of_the_nodes_that_were_up(clock: Clock) -> None:
    nodes = [HEAD]
    meter = Meter(attempt=3)
    clock.now += 7  # before Ray is joined
    meter.watch(lambda: nodes)
    for seconds, up in ((10, [HEAD]), (20, [HEAD, CPU, *GPUS]), (30, [HEAD, GPUS[0]])):
        nodes = up
        clock.now += seconds
        made = meter.snapshot()
    meter.stop()
    assert made["wall_s"] == 67
    assert made["attempts"] == 3
    found = {name: tuple(group[f"{kind}_seconds{end}"] for kind, end in KINDS) for name, group in made["groups"].items()}
    assert found == {"head": (60, 0, 0), "cpu": (20, 80, 0), "gpu": (70, 560, 140)}


KINDS = (("pod", ""), ("cpu", "_reserved"), ("gpu", ""))


def test_peaks_are_the_highest_of_a_group_and_retries_add_up(clock: Clock) -> None:
    meter = Meter()
    meter.watch(lambda: [HEAD, CPU, *GPUS])
    meter.saw("g1", 900.0, 0.0, Retries(worker_deaths=2))
    meter.saw("g2", 1_500.5, 0.0, Retries())
    meter.saw("g1", 1_000.0, 0.0, Retries(worker_deaths=1, lost_nodes=4))
    meter.saw("c", 300.0, 2_048.0, Retries())
    made = meter.snapshot()
    meter.stop()
    assert (made["groups"]["gpu"]["peak_memory_mib"], made["groups"]["gpu"]["peak_process_mib"]) == (1_500.5, 1_500.5)
    assert (made["groups"]["cpu"]["peak_memory_mib"], made["groups"]["cpu"]["peak_process_mib"]) == (2_048.0, 300.0)
    assert made["retries"] == {"worker_deaths": 3, "lost_nodes": 4}


def test_the_drivers_own_memory_is_that_of_its_node(clock: Clock) -> None:
    meter = Meter()
    meter.watch(lambda: [HEAD, CPU], here="h")
    made = meter.snapshot()["groups"]
    meter.stop()
    assert made["head"]["peak_process_mib"] > 10
    assert made["cpu"]["peak_process_mib"] == 0


def test_a_node_that_came_and_went_between_looks_is_asked_for(clock: Clock) -> None:
    nodes = [HEAD]
    meter = Meter()
    meter.watch(lambda: nodes)
    nodes = [HEAD, CPU]
    meter.saw("c", 10.0, 0.0, Retries())
    meter.stop()
    assert meter.snapshot()["groups"]["cpu"]["peak_process_mib"] == 10.0


def test_a_look_that_fails_is_made_up_for_by_the_next(clock: Clock) -> None:
    answers = iter([[CPU], RuntimeError("GCS is away"), [CPU]])

    def look() -> list[Node]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    meter = Meter()
    meter.watch(look)
    clock.now += 5
    assert meter.snapshot()["groups"]["cpu"]["pod_seconds"] == 0
    clock.now += 5
    assert meter.snapshot()["groups"]["cpu"]["pod_seconds"] == 10
    meter.stop()


def test_without_a_cluster_it_is_this_process() -> None:
    meter = Meter()
    time.sleep(0.05)
    made = meter.snapshot()
    (group,) = made["groups"].values()
    assert list(made["groups"]) == ["local"]
    assert 0.04 < made["wall_s"] < 30
    assert group["pod_seconds"] > 0
    assert group["cpu_seconds_reserved"] >= group["pod_seconds"]
    assert group["gpu_seconds"] == 0
    assert group["peak_process_mib"] > 10


def test_memory_is_in_mib() -> None:
    before, _ = memory_peaks_mib()
    ballast = bytearray(200 * 2**20)
    ballast[:: 2**12] = b"x" * len(ballast[:: 2**12])
    after, pod = memory_peaks_mib()
    assert 100 < after < 100_000
    assert after >= before
    assert pod == 0 or pod > 100
