"""The unit of work and of retry: a worker is built once per process and processes units by name.

A unit is usually one shard. What a worker writes depends on the unit alone, never on which process handles it or how many
there are, so both executors give the same bytes, and a unit that was interrupted is simply done again.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.execution.usage import Monitor

_SHOWN = 20


class Worker(Protocol):
    """Built once per process (models are loaded here), then called for many units."""

    def process(self, unit: str) -> None:
        """Do a unit and commit it to the output; raise when it cannot be done."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How to build a worker elsewhere: a class that can be imported and arguments that can be pickled.

    Units of workers of the same ``affinity`` come one after the other: they share what is slow to load. Only a worker that ``uses_gpu`` gets
    ``cluster.gpus_per_worker``. A worker ``in_driver`` is built beside the driver: what it does there is to start processes of its own (the
    ranks of a training).
    """

    build: Callable[..., Worker]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    affinity: str = ""
    uses_gpu: bool = False
    in_driver: bool = False

    def make(self) -> Worker:
        """Build the worker in this process."""
        return self.build(**self.arguments)


@dataclass(frozen=True, slots=True)
class UnitFailure:
    """A unit that could not be done: one line for people, the traceback for the log."""

    unit: str
    reason: str
    details: str


class UnitsFailedError(ValueError):
    """Some units failed; each other one is done. The message lists units and reason."""

    def __init__(self, what: str, failures: Sequence[UnitFailure]) -> None:
        self.failures = tuple(failures)
        self.what = what
        by_reason: dict[str, list[str]] = {}
        for failure in failures:
            by_reason.setdefault(failure.reason, []).append(failure.unit)
        lines = [f"  {units[0]}{f' and {len(units) - 1} more' if len(units) > 1 else ''}: {reason}" for reason, units in by_reason.items()]
        shown = "\n".join(lines[:_SHOWN])
        more = f"\n  ... and {len(lines) - _SHOWN} more reasons" if len(lines) > _SHOWN else ""
        super().__init__(
            f"{what}: {len(failures)} {'unit' if len(failures) == 1 else 'units'} failed:\n{shown}{more}\n"
            "Mend the cause and run the same command again; what is done is not done again."
        )


OnDone = Callable[[str, UnitFailure | None], None]


def attempt(worker: Worker, unit: str) -> UnitFailure | None:
    """Process a unit; an exception becomes a failure of this unit, so that the other units go on."""
    try:
        worker.process(unit)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, it is reported with its unit and the exit code says so
        return UnitFailure(unit, _one_line(error), traceback.format_exc())
    return None


def run_units(spec: WorkerSpec, units: Sequence[str], cluster: ClusterSettings, on_done: OnDone, monitor: Monitor | None = None) -> None:
    """Process all units, in this process or by a pool of Ray actors; ``on_done`` gets each with its failure, if any."""
    if cluster.executor == "inline" or spec.in_driver:
        worker = spec.make()
        for unit in units:
            on_done(unit, attempt(worker, unit))
    elif units:
        from bioie_ray.execution.ray_data import run_on_ray

        run_on_ray(spec, units, cluster, on_done, monitor or Monitor())


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
