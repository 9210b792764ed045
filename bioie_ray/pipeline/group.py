"""One worker for the units of many steps: it holds the worker of the step at hand and builds the next when that comes."""

from __future__ import annotations

from collections.abc import Mapping

from bioie_ray.execution.units import Worker, WorkerSpec

_JOINT = "\n"  # occurs neither in keys nor in unit names


def join(key: str, unit: str) -> str:
    """The name of a step's unit among the units of many steps."""
    return f"{key}{_JOINT}{unit}"


def part(joined: str) -> tuple[str, str]:
    """The inverse of ``join``: (step key, unit)."""
    key, _, unit = joined.partition(_JOINT)
    return key, unit


class GroupWorker:
    """Units come ordered by step, so one held worker is enough, and memory is that of one step.

    Where a unit fails by what every unit of its affinity would fail by (an error that ``ends_affinity``: a server that is gone), the others
    are not tried: each would wait as long for the same.
    """

    def __init__(self, specs: Mapping[str, WorkerSpec]) -> None:
        self._specs = specs
        self._key = ""
        self._worker: Worker | None = None
        self._lost: dict[str, str] = {}

    def process(self, unit: str) -> None:
        """Hand the unit to the worker of its step."""
        key, own = part(unit)
        affinity = self._specs[key].affinity
        if affinity in self._lost:
            raise ValueError(f"not tried any more: {self._lost[affinity]}")
        if self._worker is None or key != self._key:
            self._worker = None  # freed before the next one is built
            self._worker = self._specs[key].make()
            self._key = key
        try:
            self._worker.process(own)
        except Exception as error:
            if affinity and getattr(error, "ends_affinity", False):
                self._lost[affinity] = str(error)
            raise
