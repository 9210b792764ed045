"""A training that goes on with fewer ranks says so, in its log and in its record; one that goes on with as many leaves the bytes of one undisturbed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from stages import TRAIN, losses, sft_settings, sft_stage, summary
from tiny_models import save_llama

from bioie_ray.artifacts.output import Output
from bioie_ray.training.checkpoints import Checkpoint, CheckpointStore
from bioie_ray.training.rank import train
from bioie_ray.training.stage import Stage
from bioie_ray.training.starts import starts, told

LAUNCH = "0a1b2c3d"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("starts") / "llama")


def test_a_start_with_another_number_of_ranks_is_noted_with_its_step(tmp_path: Path) -> None:
    def goes_on(found: Any, *args: Any) -> Any:
        (tmp_path / "starts.json").write_text(json.dumps(found))
        return starts(args[0], tmp_path, *args[1:])

    first = starts(4)
    assert first == [{"step": 0, "ranks": 4}]
    assert goes_on(first, 4, 20, 4) == first
    second = goes_on(first, 2, 40, 4)
    assert second == [{"step": 0, "ranks": 4}, {"step": 40, "ranks": 2}]
    assert told(goes_on(second, 4, 60, 2)) == "4, from step 40 on 2, from step 60 on 4"
    (tmp_path / "starts.json").unlink()
    assert starts(1, tmp_path, 40, 2) == [{"step": 0, "ranks": 2}, {"step": 40, "ranks": 1}]  # of a checkpoint that says nothing of it


def still(store: Path, llama: Path) -> Stage:
    """Eight steps without dropout, whose numbers two ranks would draw otherwise."""
    settings = sft_settings(packing=False, epochs=4, max_steps=8, lora={"r": 4, "modules": ("q_proj",)})
    return sft_stage(store, llama, settings, TRAIN.model_copy(update={"keep_checkpoints": 100}), num=12)


def as_of_two_ranks(source: Output, target: Output, step: int, scratch: Path) -> None:
    """The checkpoint of a step as two ranks make it: each its random numbers, the first all else."""
    folders = [scratch / "rank-0", scratch / "rank-1"]
    (whole,) = (one for one in CheckpointStore(source).whole() if one.step == step)
    CheckpointStore(source).get(whole, folders[0], 0)
    folders[1].mkdir()
    shutil.copy(folders[0] / "rng_state.pth", folders[1] / "rng_state_1.pth")
    (folders[0] / "rng_state.pth").rename(folders[0] / "rng_state_0.pth")
    (folders[0] / "starts.json").write_text(json.dumps(starts(2)))
    for rank, folder in enumerate(folders):
        CheckpointStore(target).put(folder, Checkpoint(step, 2, LAUNCH), rank)


def test_one_rank_goes_on_from_what_two_have_done_and_says_so(llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone, shrunk = (still(tmp_path / name, llama) for name in ("alone", "shrunk"))
    train(alone)
    assert summary(alone.output)["starts"] == [{"step": 0, "ranks": 1}]
    as_of_two_ranks(alone.output, shrunk.output, 4, tmp_path)
    train(shrunk)
    result = summary(shrunk.output)
    assert (result["steps"], result["ranks"], result["starts"]) == (8, 1, [{"step": 0, "ranks": 2}, {"step": 4, "ranks": 1}])
    assert "going on from step 4, made by 2 ranks, with 1: not the same to the last bit" in caplog.text
    assert losses(shrunk.output) == pytest.approx(losses(alone.output), rel=1e-4)  # the same batches, optimizer and rate
    checkpoint = shrunk.output.address.folder / shrunk.output.key / "_checkpoints/step-00000008/starts.json"
    assert json.loads(checkpoint.read_text()) == result["starts"]  # for whoever goes on from there
