"""Units on Ray Data: one row a unit, mapped over a pool of actors that each build the worker once.

Ray Data schedules, restarts and autoscales; the bytes go from the actor straight to the store. Rows carry only unit names
and outcomes, so the driver's memory does not grow with the data. ``ray.data.checkpoint`` (resume by an id column) was
weighed and left: it resumes rows into new files, and here an interrupted run must end with the same files byte for byte.

All actors are asked for at once and work begins on those that are there: on a cluster without nodes that is what makes the
autoscaler start some. When the rows are done the actors go, and so do nodes without work, between the kinds of steps too.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import ray
import ray.data
import ray.exceptions
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.execution.ledger import open_ledger
from bioie_ray.execution.ray_cluster import ClusterError, actor_resources, connect, nodes, pool_size, shortage
from bioie_ray.execution.units import OnDone, UnitFailure, WorkerSpec, attempt
from bioie_ray.execution.usage import Monitor, Retries, memory_peaks_mib

# What a unit may cost is counted in the ledger; this only ends an actor that dies on every start, before it has a unit.
_MAX_RESTARTS = 200
_LOOK_EVERY_S = 2.0
_LEDGER_TIMEOUT_S = 10.0
_TELL_AFTER_S = 30.0
_STOP_TIMEOUT_S = 20.0


def run_on_ray(spec: WorkerSpec, units: Sequence[str], cluster: ClusterSettings, on_done: OnDone, monitor: Monitor) -> None:
    """Process the units on a pool of actors; a unit whose actor or node dies is tried again elsewhere, then reported.

    Raises:
        ClusterError: Ray cannot be joined, or for ``cluster.start_timeout_s`` no worker could be started.
    """
    connect()
    monitor.meter.watch(nodes, here=ray.get_runtime_context().get_node_id())
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # The named parameters that are to replace it cannot cap restarts in this Ray.
    warnings.filterwarnings("ignore", message=".*ray_remote_args_fn.*")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a lost unit is reported by name below, it does not take the others along
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = -1  # begin with those that are there
    context.custom_execution_callback_classes = [_Stop]
    context.execution_no_progress_timeout_s = -1  # a unit may take hours (a training); whether anybody is at work is watched below
    num_actors = pool_size(spec, cluster, len(units))
    ledger = open_ledger(cluster)
    rows = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
    outcomes = rows.map(
        _Actor,  # type: ignore[arg-type] # a class is what an actor pool takes
        fn_constructor_kwargs={"spec": spec, "ledger": ledger},
        compute=ray.data.ActorPoolStrategy(size=num_actors, max_tasks_in_flight_per_actor=1),
        ray_remote_args_fn=partial(dict, max_restarts=_MAX_RESTARTS, max_task_retries=_MAX_RESTARTS),
        **actor_resources(spec, cluster),
    )
    unseen = dict.fromkeys(units)
    reason = "its actor died before it could begin, again and again; see the Ray logs"
    watch = _Watch(ledger, monitor.say, cluster.start_timeout_s, lambda: shortage(num_actors, spec, cluster))
    reader = _Reader(outcomes)
    try:
        for row in reader.rows(watch):
            unseen.pop(row["unit"], None)
            monitor.meter.saw(row["node"], row["process_mib"], row["pod_mib"], Retries(row["worker_deaths"], row["lost_nodes"]))
            on_done(row["unit"], UnitFailure(row["unit"], row["reason"], row["details"]) if row["reason"] else None)
    except ray.exceptions.RayError as error:
        reader.stop()
        reason = f"Ray gave up: {str(error).strip().splitlines()[-1]}"
    except (Exception, KeyboardInterrupt):  # SIGTERM is a SystemExit, and takes no leave
        reader.stop()
        raise
    for unit in unseen:
        on_done(unit, UnitFailure(unit, reason, ""))


class _Actor:
    """What runs in the pool: the worker, and outcomes as rows."""

    def __init__(self, spec: WorkerSpec, ledger: Any) -> None:
        self._worker = spec.make()
        self._ledger = ledger
        self._node = ray.get_runtime_context().get_node_id()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        unit = row["unit"]
        refused = ray.get(self._ledger.begin.remote(unit, self._node))
        failure = UnitFailure(unit, refused, "") if refused else attempt(self._worker, unit)
        retries = ray.get(self._ledger.end.remote(unit))
        process_mib, pod_mib = memory_peaks_mib()
        return {
            "unit": unit,
            "reason": failure.reason if failure else "",
            "details": failure.details if failure else "",
            "node": self._node,
            "process_mib": process_mib,
            "pod_mib": pod_mib,
            "worker_deaths": retries.worker_deaths,
            "lost_nodes": retries.lost_nodes,
        }


class _Watch:
    """Looks at the ledger while no outcome comes: is anybody at work at all?"""

    def __init__(self, ledger: Any, say: Callable[[str], None], timeout_s: float, shortage: Callable[[], str]) -> None:
        self._ledger = ledger
        self._say = say
        self._timeout_s = timeout_s
        self._shortage = shortage
        self._told = False
        self._idle_since = time.monotonic()

    def note_outcome(self) -> None:
        """Somebody was at work."""
        self._idle_since, self._told = time.monotonic(), False

    def look(self) -> None:
        """Tell people of a long wait, once, and end one that is too long."""
        try:
            num_in_hand = ray.get(self._ledger.num_in_hand.remote(), timeout=_LEDGER_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            num_in_hand = 0  # the head starts no process; the deadline holds all the same
        if num_in_hand:
            self.note_outcome()
            return
        idle_s = time.monotonic() - self._idle_since
        if idle_s >= self._timeout_s:
            shortage = self._shortage()
            raise ClusterError(
                f"no worker could be started in {idle_s:.0f} s: {shortage}; check that a group of the cluster has such nodes and that its "
                "pods can be scheduled (cluster.kube.workers, cluster.gpus_per_worker, cluster.memory_per_worker_gib), or raise "
                "cluster.start_timeout_s; then run again, it goes on where it stopped"
            )
        if idle_s >= _TELL_AFTER_S and not self._told:
            self._told = True
            self._say(f"waiting for workers, for {self._timeout_s:.0f} s at most: {self._shortage()}")


class _Stop(ExecutionCallback):
    """Ends an execution of Ray Data between two of its steps, when nobody reads it any more.

    Else the actors that it asked for might still come; and when Ray is shut down under its thread, Ray ends the whole process,
    without a word and with an exit code of its own. It is a class of the module because Ray Data pickles it for the actors.
    """

    asked: ClassVar[threading.Event] = threading.Event()  # of the newest execution; each keeps its own

    def __init__(self) -> None:
        self._asked = self.asked

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        if self._asked.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """Nobody waits for the outcomes."""


class _Reader:
    """Reads the outcomes in another thread, so that signals and the watch have this one."""

    def __init__(self, outcomes: ray.data.Dataset) -> None:
        self._outcomes = outcomes
        self._stop = _Stop.asked = threading.Event()
        self._found: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True, name="outcomes")

    def _read(self) -> None:
        try:
            for row in self._outcomes.iter_rows():
                self._found.put(row)
            self._found.put(None)
        except BaseException as error:  # noqa: BLE001 - handed over, and raised below
            self._found.put(error)

    def rows(self, watch: _Watch) -> Iterator[dict[str, Any]]:
        """The rows as they come; while none does, the watch looks."""
        self._thread.start()
        while True:
            try:
                row = self._found.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                watch.look()
                continue
            if row is None:
                return
            if isinstance(row, BaseException):
                raise row
            watch.note_outcome()
            yield row

    def stop(self) -> None:
        """No further unit is begun. Those in hand end, or die with this process."""
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # or it asks people to report that it was stopped
        self._stop.set()
        self._thread.join(_STOP_TIMEOUT_S)
