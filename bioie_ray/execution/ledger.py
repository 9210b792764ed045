"""Who works on which unit: so that a unit which kills its workers is given up, and one whose node was taken away is not.

Ray counts both alike: ``max_restarts`` of an actor spares only nodes that were drained with the reason *preemption* first,
which neither a deleted pod nor a spot node's power cut is. Six lost spot nodes would end a job. So Ray restarts for as long
as it takes, and here each unit's attempts are counted, by whether the node of the attempt still lives.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bioie_ray.config.cluster import ClusterSettings
from bioie_ray.execution.usage import Retries


@dataclass
class Attempts:
    """The bookkeeping itself; nodes are named by id."""

    max_deaths: int
    max_lost: int
    _under_way: dict[str, list[str]] = field(default_factory=dict)  # unit -> the node of each of its attempts

    def begin(self, unit: str, node: str, living: Collection[str]) -> str:
        """Note that a worker on a node begins a unit; returns why it must not, or nothing."""
        attempts = self._under_way.setdefault(unit, [])
        ended = _count(attempts, living)
        attempts.append(node)
        if ended.worker_deaths > self.max_deaths:
            return f"its actor died again and again ({ended.worker_deaths} times): out of memory, or killed; see the Ray logs, or lower batch_tokens"
        if ended.lost_nodes > self.max_lost:
            return (
                f"its node was lost again and again ({ended.lost_nodes} times): pods out of memory as a whole, or preempted; give them more "
                "memory or other nodes, or raise cluster.max_lost_nodes"
            )
        return ""

    def end(self, unit: str, living: Collection[str]) -> Retries:
        """Note that the unit needs no worker any more; returns how often it had to be begun again."""
        return _count(self._under_way.pop(unit, [])[:-1], living)

    def num_in_hand(self, living: Collection[str]) -> int:
        """How many units are being worked on, on nodes that live."""
        return sum(1 for nodes in self._under_way.values() if nodes[-1] in living)


def _count(nodes: list[str], living: Collection[str]) -> Retries:
    # Looked at anew each time: a worker's death may be known before that of its node.
    deaths = sum(node in living for node in nodes)
    return Retries(deaths, len(nodes) - deaths)


class _Ledger:
    """``Attempts`` as an actor; it asks Ray which nodes live."""

    def __init__(self, max_deaths: int, max_lost: int) -> None:
        self._attempts = Attempts(max_deaths, max_lost)

    def begin(self, unit: str, node: str) -> str:
        """See ``Attempts.begin``."""
        return self._attempts.begin(unit, node, living_nodes())

    def end(self, unit: str) -> Retries:
        """See ``Attempts.end``."""
        return self._attempts.end(unit, living_nodes())

    def num_in_hand(self) -> int:
        """See ``Attempts.num_in_hand``."""
        return self._attempts.num_in_hand(living_nodes())


def living_nodes() -> set[str]:
    """Ids of the nodes that are up."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def open_ledger(cluster: ClusterSettings) -> Any:
    """A ledger beside the driver, where it lives as long as the driver does and keeps no worker node up."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # One that dies comes back with an empty book: counts begin anew, and the work goes on.
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(_Ledger).options(**options).remote(cluster.max_worker_restarts, cluster.max_lost_nodes)
