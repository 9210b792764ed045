"""What became of ranks that Ray Train lost: which of them to start again, and what to say of those that were lost too often.

Ray's memory monitor says whom it ended, and then the same size would be ended again. The kernel says nothing to Ray: a rank that it kills looks like
one on a lost node, and such a rank is started again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError
from ray.train import UserCallback
from ray.train.v2.api.exceptions import WorkerGroupError

from bioie_ray.artifacts.store import StoreError
from bioie_ray.training.failures import out_of_memory, what_to_lower, write_failure
from bioie_ray.training.stage import Stage

# In the text of an actor's death, where the reason comes that way: https://docs.ray.io/en/latest/ray-core/scheduling/ray-oom-prevention.html
_BY_THE_MONITOR = re.compile(r"NODE_OUT_OF_MEMORY|due to the node running low on memory")
_USE = re.compile(r"was (\S+ used / \S+ limit)")


class MemoryWatch(UserCallback):
    """Of the controller: writes down that ranks ran out of memory, so that the next ones say so instead of trying the same size again."""

    def __init__(self, stage: Stage, *, on_gpu: bool) -> None:
        self._stage = stage
        self._on_gpu = on_gpu

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, BaseException]) -> None:
        """Called before Ray Train decides on another try."""
        told = for_memory(self._stage, worker_exceptions, on_gpu=self._on_gpu)
        if told is not None:
            with suppress(StoreError):  # then it is tried again, and said the next time
                write_failure(self._stage.output, told)


def for_memory(stage: Stage, failures: Mapping[int, BaseException], *, on_gpu: bool) -> str | None:
    """The message for people, if Ray's memory monitor ended a rank; ``failures`` are by rank. It watches the node's memory, not a GPU's."""
    for rank, error in sorted(failures.items()):
        cause = _cause(error)
        text = str(cause)
        if isinstance(cause, OutOfMemoryError) or _BY_THE_MONITOR.search(text):
            use = _USE.search(text)
            reason = f"Ray's memory monitor ended rank {rank}, as its node ran low on memory{f' ({use[1]})' if use else ''}."
            if on_gpu:
                offload = "" if stage.train.offload == "none" else "train.offload=none, "
                return (
                    f"out of memory: {reason} It is the node's memory and not the GPU's: set {offload}cluster.kube.workers.GROUP.memory_gib higher, or fewer "
                    "ranks to a node; then run again, it goes on from the last checkpoint"
                )
            return f"{out_of_memory(stage, reason)}. More memory for its pod (cluster.kube.workers.GROUP.memory_gib) helps too"
    return None


def too_often(stage: Stage, error: BaseException) -> str:
    """What to say of a training that Ray Train gave up, with what may be the reason where ranks died without a word."""
    if not isinstance(error, WorkerGroupError):
        return (
            f"the ranks of {stage.name} could not be kept running: {_last_line(error)}; what is done is kept in checkpoints. See that cluster.ranks fit the "
            "cluster (GPUs, CPUs, memory), or set cluster.start_timeout_s higher, and run the same command again"
        )
    failures: Mapping[int, BaseException] = error.worker_failures
    told = "; ".join(f"rank {rank}: {_last_line(failure)}" for rank, failure in sorted(failures.items()) if str(failure).strip())
    message = (
        f"{stage.name} failed {stage.train.max_retries + 1} times, the last time: {told or _last_line(error)}; what is done is kept in checkpoints. Mend the "
        "cause (see the Ray logs) and run the same command again, it goes on from the last one"
    )
    if any(isinstance(_cause(failure), RayActorError | NodeDiedError) for failure in failures.values()):
        message += (
            ". A rank that dies without an error of its own was killed or lost with its node; the cause may be memory (the node's dmesg, or OOMKilled of its "
            f"pod, would say so), or a pod's disk (Evicted: cluster.kube.workers.GROUP.spill_gib). If it is memory: {what_to_lower(stage)}"
        )
    return message


def _cause(error: BaseException) -> BaseException:
    """What Ray said, without Ray Train's wrapping."""
    cause: BaseException = getattr(error, "health_check_failure", error)
    return cause


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1]
