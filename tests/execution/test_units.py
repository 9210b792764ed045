from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.execution.units import UnitFailure, UnitsFailedError, WorkerSpec, run_units

UNITS = [f"u{i}" for i in range(6)]


class Writer:
    """Writes a file a unit; some units fail, and some kill the process they run in."""

    def __init__(self, folder: str, failing: str = "", deadly: str = "", deaths: int = 0, seconds: float = 0.0) -> None:
        self.folder = Path(folder)
        self.failing = failing
        self.deadly = deadly
        self.deaths = deaths
        self.seconds = seconds

    def process(self, unit: str) -> None:
        if unit == self.failing:
            raise ValueError(f"{unit} is torn at byte 7")
        if unit == self.deadly:
            died = len(list(self.folder.glob("death-*")))
            if died < self.deaths:
                (self.folder / f"death-{died}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        (self.folder / unit).write_text(unit)


def run(folder: Path, executor: str, **arguments: object) -> dict[str, UnitFailure | None]:
    outcomes: dict[str, UnitFailure | None] = {}
    cluster = ClusterSettings(executor=executor, num_workers=2, max_worker_restarts=2)
    run_units(WorkerSpec(Writer, {"folder": str(folder), **arguments}), UNITS, cluster, outcomes.__setitem__)
    return outcomes


@pytest.fixture(autouse=True)
def importable_in_actors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Actors import this module by name; those of a Ray that a test starts inherit its environment."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


EXECUTORS = ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_unit_is_done_once(tmp_path: Path, executor: str) -> None:
    assert run(tmp_path, executor) == dict.fromkeys(UNITS)
    assert sorted(path.name for path in tmp_path.iterdir()) == UNITS


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failing_unit_takes_no_other_along(tmp_path: Path, executor: str) -> None:
    outcomes = run(tmp_path, executor, failing="u2")
    failure = outcomes.pop("u2")
    assert failure is not None
    assert failure.reason == "u2 is torn at byte 7"
    assert "process" in failure.details
    assert outcomes == dict.fromkeys(u for u in UNITS if u != "u2")


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_actor_costs_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "ray", deadly="u3", deaths=1) == dict.fromkeys(UNITS)


@pytest.mark.ray
@pytest.mark.slow
def test_a_unit_may_take_longer_than_ray_data_waits_by_itself(tmp_path: Path) -> None:
    """Which is half an hour, less than a training or a large shard of answers can take."""
    from ray.data import DataContext

    DataContext.get_current().execution_no_progress_timeout_s = 1.0
    assert run(tmp_path, "ray", seconds=3.0) == dict.fromkeys(UNITS)


def outcomes_are_read() -> bool:
    return any(thread.name == "outcomes" or thread.name.startswith("StreamingExecutor") for thread in threading.enumerate())


@pytest.mark.ray
@pytest.mark.slow
def test_workers_that_cannot_come_are_given_up_and_the_process_lives_on(tmp_path: Path) -> None:
    """Ray ends a process whose threads still ask it for something once it is shut down."""
    cluster = ClusterSettings(executor="ray", num_workers=1, memory_per_worker_gib=1e6, start_timeout_s=2)
    with pytest.raises(ValueError, match=r"no worker could be started in \d+ s: asked for 1 workers of 1 CPUs"):
        run_units(WorkerSpec(Writer, {"folder": str(tmp_path)}), UNITS, cluster, lambda *_: None)
    assert not outcomes_are_read()
    assert run(tmp_path, "ray") == dict.fromkeys(UNITS)


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_that_fails_at_an_outcome_leaves_nothing_at_work(tmp_path: Path) -> None:
    def full(unit: str, failure: UnitFailure | None) -> None:
        raise OSError(28, "No space left on device")

    cluster = ClusterSettings(executor="ray", num_workers=1)
    with pytest.raises(OSError, match="No space left"):
        run_units(WorkerSpec(Writer, {"folder": str(tmp_path), "seconds": 2.0}), UNITS, cluster, full)
    assert not outcomes_are_read()
    done = len(list(tmp_path.iterdir()))
    time.sleep(7)
    assert len(list(tmp_path.iterdir())) <= done + 1 < len(UNITS), "the unit in hand may end, no other begins"


@pytest.mark.ray
@pytest.mark.slow
def test_a_unit_that_always_kills_its_actor_is_reported_not_tried_for_ever(tmp_path: Path) -> None:
    outcomes = run(tmp_path, "ray", deadly="u3", deaths=1_000)
    failure = outcomes.pop("u3")
    assert failure is not None
    assert "died again and again" in failure.reason
    assert outcomes == dict.fromkeys(u for u in UNITS if u != "u3")


def test_the_error_lists_units_by_their_reason_and_says_what_to_do() -> None:
    failures = [UnitFailure(f"train-{i:05d}", "disk full" if i % 2 else f"bad {i}", "") for i in range(50)]
    text = str(UnitsFailedError("embedding", failures))
    assert text.startswith(
        "embedding: 50 units failed:\n  train-00000: bad 0\n  train-00001 and 24 more: disk full\n  train-00002: bad 2\n"
    )
    assert "\n  ... and 6 more reasons\n" in text
    assert "bad 38" not in text
    assert "run the same command again; what is done is not done again" in text
    assert "1 unit failed" in str(UnitsFailedError("embedding", failures[:1]))
