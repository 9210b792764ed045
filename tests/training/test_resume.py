"""A training that is killed goes on from its last whole checkpoint and ends with the bytes of one that nobody disturbed."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from small_disks import fill
from stages import TRAIN, bytes_of, dpop_settings, dpop_stage, exit_code_when_killed, metrics, sft_settings, sft_stage
from tiny_models import save_llama

from bioie_ray.artifacts.output import Output
from bioie_ray.training.checkpoints import CheckpointStore
from bioie_ray.training.place import Place
from bioie_ray.training.rank import train
from bioie_ray.training.resuming import restore
from bioie_ray.training.stage import Stage, TrainingError

pytestmark = pytest.mark.slow  # whoever is the first to be killed waits for imports

# Dropout is 0.1, so random numbers must go on where they were; 12 steps, six checkpoints, all of them kept to be looked at.
KEEPING = TRAIN.model_copy(update={"keep_checkpoints": 10})
Make = Callable[[Path], Stage]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("resume") / "llama")


@pytest.fixture(scope="module", params=["sft", "dpop"])
def make(request: pytest.FixtureRequest, llama: Path) -> Make:
    """Stages of 12 steps that are the same but for where they lie."""
    return {
        "sft": lambda store: sft_stage(store, llama, sft_settings(packing=False, epochs=4), KEEPING, num=12),
        "dpop": lambda store: dpop_stage(store, llama, dpop_settings(epochs=3), KEEPING),
    }[request.param]


@pytest.fixture(scope="module")
def undisturbed(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Output:
    stage = make(tmp_path_factory.mktemp("undisturbed"))
    train(stage)
    assert metrics(stage.output)[-1]["step"] == 12
    return stage.output


def written_at(output: Output) -> dict[str, int]:
    """When each file of a checkpoint was put there."""
    folder = output.address.folder / output.key / "_checkpoints"
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def steps_of(output: Output) -> list[int]:
    return [checkpoint.step for checkpoint in CheckpointStore(output).whole()]


def test_the_same_training_has_the_same_bytes(make: Make, undisturbed: Output, tmp_path: Path) -> None:
    stage = make(tmp_path)
    train(stage)
    assert bytes_of(stage.output) == bytes_of(undisturbed)
    assert {"metrics.jsonl", "training.json", "training.parquet", "model/model.safetensors"} <= bytes_of(undisturbed).keys()


@pytest.mark.parametrize("num_whole", [2, 6], ids=["in the middle", "after the last step"])
def test_a_killed_training_goes_on_to_the_same_bytes(make: Make, undisturbed: Output, tmp_path: Path, num_whole: int) -> None:
    stage = make(tmp_path)
    assert exit_code_when_killed(stage, num_whole) == -signal.SIGKILL
    before = [2, 4, 6, 8, 10, 12][:num_whole]
    assert steps_of(stage.output) == before
    assert not stage.output.markers()
    was = written_at(stage.output)
    train(stage)
    assert stage.output.markers()
    assert steps_of(stage.output) == [2, 4, 6, 8, 10, 12]
    now = written_at(stage.output)
    whole = {name: at for name, at in was.items() if int(name[5:13]) <= before[-1]}
    assert {name: now[name] for name in whole} == whole  # it did not begin anew
    assert bytes_of(stage.output) == bytes_of(undisturbed)


def test_a_training_killed_twice_goes_on_to_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    """Packed this time, and with all weights trained."""
    settings = sft_settings(method="full", learning_rate=1e-3, epochs=8)
    whole, stage = (sft_stage(tmp_path / name, llama, settings, KEEPING) for name in ("whole", "killed"))
    train(whole)
    for num_whole in (1, 3):
        assert exit_code_when_killed(stage, num_whole) == -signal.SIGKILL
    assert steps_of(stage.output) == [2, 4, 6]
    train(stage)
    assert bytes_of(stage.output) == bytes_of(whole.output)


@pytest.fixture
def killed(llama: Path, tmp_path: Path) -> Stage:
    """With whole checkpoints at steps 2 and 4."""
    stage = sft_stage(tmp_path / "killed", llama, sft_settings(packing=False, epochs=4), KEEPING, num=12)
    assert exit_code_when_killed(stage, 2) == -signal.SIGKILL
    return stage


def newest(stage: Stage) -> Path:
    return stage.output.address.folder / stage.output.key / "_checkpoints/step-00000004"


def test_a_torn_newest_checkpoint_is_not_loaded(killed: Stage, llama: Path, tmp_path: Path) -> None:
    """It was killed while it put the files away: some are there, one is half, the list is not."""
    next(newest(killed).glob("_rank-00000-of-00001-*.json")).unlink()
    (newest(killed) / "optimizer.pt").write_bytes(b"half")
    was = {name: at for name, at in written_at(killed.output).items() if name.startswith("step-00000002")}
    train(killed)
    now = written_at(killed.output)
    assert {name: now[name] for name in was} == was
    assert (newest(killed) / "optimizer.pt").read_bytes() != b"half"
    whole = sft_stage(tmp_path / "whole", llama, sft_settings(packing=False, epochs=4), KEEPING, num=12)
    train(whole)
    assert bytes_of(killed.output) == bytes_of(whole.output)


def damage(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_a_checkpoint_that_cannot_be_read_costs_steps_and_no_bytes(
    killed: Stage, llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """And it goes: among the newest it would take the place of those that can be read."""
    damage(newest(killed)) if how == "damaged" else (newest(killed) / "optimizer.pt").unlink()
    older = newest(killed).with_name("step-00000002")
    was = written_at(killed.output)
    restored, _ = restore(CheckpointStore(killed.output), tmp_path / "restored", Place(0, 1), killed)
    assert restored is not None
    assert json.loads((restored / "trainer_state.json").read_text())["global_step"] == 2
    assert steps_of(killed.output) == [2], "it is among the newest that are kept no more"
    train(killed)
    assert "step 4 is given up for an earlier one" in caplog.text
    assert ("adapter_model.safetensors is not what was put there" if how == "damaged" else "optimizer.pt") in caplog.text
    now = written_at(killed.output)
    assert older.is_dir()
    assert {name: now[name] for name in was if name.startswith(older.name)} == {
        name: at for name, at in was.items() if name.startswith(older.name)
    }
    assert all(now[name] != at for name, at in was.items() if name.startswith(newest(killed).name) and name in now)
    whole = sft_stage(tmp_path / "whole", llama, sft_settings(packing=False, epochs=4), KEEPING, num=12)
    train(whole)
    assert bytes_of(killed.output) == bytes_of(whole.output)


@pytest.mark.parametrize("of_optimizer", [0, 1], ids=["within the weights", "within the optimizer"])
def test_a_full_disk_for_checkpoints_is_said_and_costs_nothing(
    llama: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, of_optimizer: int
) -> None:
    """Not the store's disk, but the one where they are written first. safetensors and torch each have an error of their own for it."""
    settings = sft_settings(packing=False, epochs=4, method="full")
    whole, stage = (sft_stage(tmp_path / name, llama, settings, KEEPING, num=12) for name in ("whole", "full"))
    train(whole)
    weights, optimizer = ((newest(whole) / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
    fill(small_disk, free_bytes=weights + optimizer // 2 if of_optimizer else weights // 2)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(small_disk))
        with pytest.raises(TrainingError, match=r"^no space left in .*/disk, where checkpoints"):
            train(stage)
    assert not stage.output.markers()
    assert steps_of(stage.output) == []
    train(stage)
    assert bytes_of(stage.output) == bytes_of(whole.output)


def test_where_no_checkpoint_can_be_read_a_person_decides(killed: Stage) -> None:
    folders = [newest(killed).with_name(f"step-{step:08d}") for step in steps_of(killed.output)]
    for folder in folders:
        damage(folder)
    with pytest.raises(
        TrainingError, match=r"is not what was put there, and no earlier checkpoint can be read; delete .*/_checkpoints and"
    ):
        train(killed)
    assert not killed.output.markers()
    shutil.rmtree(newest(killed).parent)  # as the message says
    train(killed)
    assert killed.output.markers()


def test_only_so_many_checkpoints_are_kept_as_are_asked_for(llama: Path, tmp_path: Path) -> None:
    stage = sft_stage(tmp_path, llama, sft_settings(packing=False, epochs=4), TRAIN.model_copy(update={"keep_checkpoints": 3}), num=12)
    train(stage)
    assert steps_of(stage.output) == [8, 10, 12]
    assert {int(name[5:13]) for name in written_at(stage.output)} == {8, 10, 12}
