"""Running out of memory says what to lower, whoever's memory it was."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.config.training import DpopSettings, TrainSettings
from bioie_ray.retrieval.models import ModelSource
from bioie_ray.training.failures import failure, telling_of_a_full_disk, telling_what_merging_needs, telling_what_to_lower, what_to_lower
from bioie_ray.training.lost_ranks import MemoryWatch, for_memory, too_often
from bioie_ray.training.rank import train_under_ray
from bioie_ray.training.stage import TrainingError

STAGE: Any = SimpleNamespace(
    name="dpop",
    settings=DpopSettings(batch_size=4, micro_batch_size=4, max_length=512),
    train=TrainSettings(max_retries=3),
    base=ModelSource("a/base"),
)


def of_the_cpu() -> None:
    torch.empty(10**15)


def of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("allocate", [of_the_cpu, of_a_gpu])
def test_the_arithmetic_and_what_to_set(allocate: Any) -> None:
    with pytest.raises(TrainingError, match=r"^out of memory: .*") as caught, telling_what_to_lower(STAGE):
        allocate()
    assert "dpop.micro_batch_size=4 x dpop.max_length=512 x 2 answers = 4096 tokens" in str(caught.value)


def test_what_is_set_already_is_not_advised() -> None:
    settings = DpopSettings(method="qlora", max_length=256)
    train = TrainSettings(gradient_checkpointing=True, score_every_steps=5)
    told = what_to_lower(SimpleNamespace(**{**vars(STAGE), "settings": settings, "train": train}))
    assert told.endswith(
        "= 512 tokens. Set dpop.max_length lower (bioie run RECIPE --dry-run shows an estimate). That is another training, which begins anew: give the "
        "recipe another version"
    )


def test_merging_needs_the_memory_of_the_machine_whatever_a_batch_has() -> None:
    with (
        pytest.raises(TrainingError, match=r"^out of memory after the last step: .*a/base in float32.*memory_gib") as caught,
        telling_what_merging_needs(STAGE),
    ):
        of_the_cpu()
    assert "micro_batch_size" not in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes differ"), telling_what_merging_needs(STAGE):
        raise RuntimeError("shapes differ")


def test_ranks_that_cannot_be_started_did_not_fail_so_and_so_often() -> None:
    told = too_often(STAGE, ControllerError(TimeoutError("no placement group in 60 s")))
    assert "could not be kept running: no placement group in 60 s" in told
    assert "cluster.start_timeout_s" in told
    assert "times" not in told


def test_a_gpus_batch_has_nothing_to_do_with_its_nodes_memory() -> None:
    told = for_memory(STAGE, {0: lost(OutOfMemoryError(BY_THE_MONITOR))}, on_gpu=True)
    assert told is not None
    assert "(4.74GB used / 23.54GB limit)" in told
    assert "cluster.kube.workers.GROUP.memory_gib" in told
    assert "micro_batch_size" not in told


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("file write failed")], ids=["the system's", "torch's"]
)
def test_a_full_disk_is_said_whoever_found_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    with pytest.raises(type(error)), telling_of_a_full_disk(tmp_path):
        raise RuntimeError("shapes differ") if isinstance(error, RuntimeError) else OSError(2, "No such file")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=512))
    said = f"^no space left in {tmp_path.parent}, where .*TMPDIR.*it goes on from the last checkpoint$"
    with pytest.raises(TrainingError, match=said), telling_of_a_full_disk(tmp_path):
        raise error
    with pytest.raises(TrainingError, match=r"^the loss is nan"), telling_of_a_full_disk(tmp_path):
        raise TrainingError("the loss is nan")


def test_any_other_error_stays_itself() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), telling_what_to_lower(STAGE):
        raise RuntimeError("shapes differ")


def lost(cause: Exception) -> WorkerHealthCheckFailedError:
    """As Ray Train hands the death of a rank over."""
    return WorkerHealthCheckFailedError("A worker health check failed.\nWorker info: ...", cause)


# As Ray 2.60 words them.
BY_THE_MONITOR = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: ad01) was 4.74GB used / 23.54GB limit "
    "(0.201556)\nRefer to the documentation on how to address the out of memory issue: https://docs.ray.io"
)
KILLED = (
    "The actor died unexpectedly before finishing this task.\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker "
    "exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed by the OOM "
    "killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly due to SIGSEGV or another unexpected error."
)


@pytest.mark.parametrize(
    "cause", [OutOfMemoryError(BY_THE_MONITOR), RayActorError(error_msg="Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: ...")]
)
def test_a_rank_that_rays_memory_monitor_ended_is_not_tried_again_at_the_same_size(cause: Exception, tmp_path: Path) -> None:
    stage: Any = SimpleNamespace(**vars(STAGE), output=Output(StoreAddress(str(tmp_path)), "models-dpop/m@1", {}))
    alone = {0: RuntimeError("Connection closed by peer"), 1: lost(cause)}
    MemoryWatch(stage, on_gpu=False).after_exception(None, alone)
    told = failure(stage.output)
    assert told is not None
    assert told.startswith("out of memory: Ray's memory monitor ended rank 1, as its node ran low on memory")
    assert isinstance(cause, RayActorError) or "(4.74GB used / 23.54GB limit)" in told
    assert "= 4096 tokens. Set dpop.micro_batch_size=1" in told
    assert train_under_ray({"stage": stage}) == told  # what the ranks that come back say, before anything is loaded


def test_a_rank_that_was_killed_may_have_been_lost_with_its_node_and_is_tried_again(tmp_path: Path) -> None:
    output = Output(StoreAddress(str(tmp_path)), "models-dpop/m@1", {})
    stage: Any = SimpleNamespace(**vars(STAGE), output=output)
    failures: dict[int, Exception] = {0: lost(RayActorError(error_msg=KILLED))}
    MemoryWatch(stage, on_gpu=False).after_exception(None, failures)
    assert failure(output) is None
    told = too_often(stage, WorkerGroupError("", failures))
    assert re.match(r"dpop failed 4 times, the last time: rank 0: The actor is dead .* run the same command again", told)
    assert "the cause may be memory" in told
    assert "Set dpop.micro_batch_size=1" in told
    assert "memory" not in too_often(stage, WorkerGroupError("", {0: RuntimeError("no route to host")}))
