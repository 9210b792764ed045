"""A cluster that grows from zero and shrinks back, that never grows, and that loses a node under a unit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from autoscaling import FakeAutoscalingCluster
from test_units import Writer

from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.execution.units import UnitFailure, WorkerSpec, run_units
from bioie_ray.execution.usage import Meter, Monitor

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1_800)]

T = TypeVar("T")
UNITS = [f"u{i}" for i in range(4)]


def until(condition: Callable[[], bool], what: str, timeout_s: float = 400) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"in {timeout_s:.0f} s not: {what}"
        time.sleep(0.2)


def patiently(start: Callable[[], T]) -> T:
    """Start something of Ray: on a busy machine it misses its fixed 30 s once in a while."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:  # noqa: BLE001 - a bare one is what Ray raises
            late = error
    raise late


def groups_up() -> list[str]:
    from bioie_ray.execution.ray_cluster import nodes

    return sorted(node.group for node in nodes() if node.group != "head")


def in_a_process_of_its_own(scenario: Callable[[Path], None], folder: Path) -> None:
    """Ray keeps its mode of authentication for as long as a process lives; here there is none, whatever other tests did."""
    code = f"import sys, pathlib, test_elastic; test_elastic.{scenario.__name__}(pathlib.Path(sys.argv[1]))"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here.parents[1]}", "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_AUTO_CONNECT": "0"}
    done = subprocess.run([sys.executable, "-c", code, folder], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]


def run(folder: Path, units: list[str], meter: Meter, **settings: object) -> dict[str, UnitFailure | None]:
    outcomes: dict[str, UnitFailure | None] = {}
    spec = WorkerSpec(Writer, {"folder": str(folder)}, uses_gpu=True)
    run_units(spec, units, ClusterSettings(**settings), outcomes.__setitem__, Monitor(meter))  # type: ignore[arg-type]
    return outcomes


def test_groups_grow_from_zero_as_work_asks_for_them_and_go_back(tmp_path: Path) -> None:
    in_a_process_of_its_own(grow_and_go_back, tmp_path)


def grow_and_go_back(folder: Path) -> None:
    """No nodes but the head; one of each group may come."""
    with tempfile.TemporaryDirectory(prefix="bioie-", ignore_cleanup_errors=True) as short:  # Ray's sockets lie in it
        cluster = FakeAutoscalingCluster(Path(short), {"cpu": ({"CPU": 1}, 1), "gpu": ({"CPU": 1, "GPU": 1}, 1)})
        _grow_and_go_back(folder, cluster)


def _grow_and_go_back(folder: Path, cluster: FakeAutoscalingCluster) -> None:
    os.environ["RAY_ADDRESS"] = cluster.address
    meter = Meter()
    try:
        # More are asked for than can come: work begins on those that are there, and the rest is not waited for.
        assert run(folder, UNITS, meter, num_workers=3) == dict.fromkeys(UNITS)
        until(lambda: groups_up() == [], "the nodes of the first kind of work gone")
        assert run(folder, ["g"], meter, num_workers=1, gpus_per_worker=1) == {"g": None}
        assert groups_up() == ["gpu"]
        until(lambda: groups_up() == [], "the GPU node gone")
        used = meter.snapshot()["groups"]
        meter.stop()
        assert used["gpu"]["gpu_seconds"] > 0
        assert used["head"]["pod_seconds"] > used["cpu"]["pod_seconds"] > 0
        assert used["head"]["cpu_seconds_reserved"] == used["cpu"]["gpu_seconds"] == 0
        assert used["gpu"]["peak_memory_mib"] > 50

        # What no group has: one clear error, and no hang.
        with pytest.raises(ValueError, match=r"no worker could be started in \d+ s: asked for 1 workers of 1 CPUs and 2 GPUs") as caught:
            run(folder, ["never"], Meter(), num_workers=1, gpus_per_worker=2, start_timeout_s=8)
        assert "nodes that are up: head: 0 CPUs, 0 GPUs" in str(caught.value)
        assert "cluster.start_timeout_s" in str(caught.value)
    finally:
        cluster.stop()


class Holder:
    """A worker that waits while a file is there."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def process(self, unit: str) -> None:
        (self._folder / f"begun-{unit}-{time.monotonic_ns()}").touch()
        while (self._folder / "hold").exists():
            time.sleep(0.1)


def test_a_lost_node_is_not_counted_against_its_unit(tmp_path: Path) -> None:
    in_a_process_of_its_own(lose_a_node, tmp_path)


def lose_a_node(folder: Path) -> None:
    """A unit is begun on a node that is taken away, and again on the next; deaths of its own it may have none."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000}))
    os.environ["RAY_ADDRESS"] = cluster.address
    (folder / "hold").touch()

    def begun() -> int:
        return len(list(folder.glob("begun-u-*")))

    outcomes: dict[str, UnitFailure | None] = {}
    meter = Meter()

    def work() -> None:
        settings = ClusterSettings(num_workers=1, max_worker_restarts=0)
        run_units(WorkerSpec(Holder, {"folder": str(folder)}), ["u"], settings, outcomes.__setitem__, Monitor(meter))

    worker = threading.Thread(target=work)  # nodes are started in the main thread: they set signal handlers
    worker.start()
    try:
        node = patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=80_000_000))
        until(lambda: begun() == 1, "the unit begun")
        cluster.remove_node(node, allow_graceful=False)
        patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=80_000_000))
        until(lambda: begun() == 2, "the unit begun again")
        (folder / "hold").unlink()
        worker.join()
        assert outcomes == {"u": None}
        assert meter.snapshot()["retries"] == {"worker_deaths": 0, "lost_nodes": 1}
    finally:
        (folder / "hold").unlink(missing_ok=True)
        meter.stop()
        ray.shutdown()
        cluster.shutdown()
