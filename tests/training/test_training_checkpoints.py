"""A checkpoint counts when each rank's list is there, and not before; what a list promises is checked when it is loaded."""

from __future__ import annotations

import filecmp
import json
import shutil
import threading
import tracemalloc
from pathlib import Path

import pytest

from bioie_ray.artifacts.output import Output
from bioie_ray.artifacts.store import StoreAddress
from bioie_ray.training.checkpoints import Checkpoint, CheckpointError, CheckpointStore, Uploader

FOLDER = "models/m@1/_checkpoints"
LAUNCH, OTHER_LAUNCH = "0a1b2c3d", "4e5f6071"


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(Output(StoreAddress(str(tmp_path / "store")), "models/m@1"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where they lie in the store."""
    return tmp_path / "store" / FOLDER


def files_of_rank(folder: Path, rank: int, text: str = "") -> Path:
    """What a trainer writes on one rank: rank 0 the common files too."""
    folder.mkdir(parents=True)
    (folder / f"rng_state_{rank}.pth").write_text(f"random {rank} {text}")
    (folder / "global_step1").mkdir()
    (folder / "global_step1" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_text(f"shard {rank} {text}")
    if rank == 0:
        (folder / "trainer_state.json").write_text(f"state {text}")
        (folder / "zz_last.bin").write_text("sorts after the list")
    return folder


def put(
    checkpoints: CheckpointStore, tmp_path: Path, step: int, num_ranks: int = 1, ranks: tuple[int, ...] | None = None, launch: str = LAUNCH
) -> None:
    for rank in range(num_ranks) if ranks is None else ranks:
        checkpoints.put(
            files_of_rank(tmp_path / f"local-{step}-{rank}-{num_ranks}", rank, f"at {step}"), Checkpoint(step, num_ranks, launch), rank
        )


def names(place: Path) -> list[str]:
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())


def test_a_checkpoint_is_whole_when_every_rank_has_put_its_list(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    assert checkpoints.whole() == []
    put(checkpoints, tmp_path, 4, num_ranks=3, ranks=(2, 0))
    assert checkpoints.whole() == []
    put(checkpoints, tmp_path, 4, num_ranks=3, ranks=(1,))
    put(checkpoints, tmp_path, 2)
    assert checkpoints.whole() == [Checkpoint(2, 1, LAUNCH), Checkpoint(4, 3, LAUNCH)]


def test_lists_of_other_numbers_of_ranks_do_not_add_up(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    put(checkpoints, tmp_path, 4, num_ranks=2, ranks=(0,))
    put(checkpoints, tmp_path, 4, num_ranks=3, ranks=(1, 2))
    assert checkpoints.whole() == []


def test_lists_of_two_launches_do_not_add_up(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    """One rank's files of a launch that died, beside another's of the next one: the optimizer of neither."""
    put(checkpoints, tmp_path, 4, num_ranks=2, ranks=(1,))
    put(checkpoints, tmp_path, 4, num_ranks=2, ranks=(0,), launch=OTHER_LAUNCH)
    assert checkpoints.whole() == []
    shutil.rmtree(tmp_path / "local-4-1-2")
    put(checkpoints, tmp_path, 4, num_ranks=2, ranks=(1,), launch=OTHER_LAUNCH)
    assert checkpoints.whole() == [Checkpoint(4, 2, OTHER_LAUNCH)]


def test_each_rank_gets_the_common_files_and_its_own(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    put(checkpoints, tmp_path, 7, num_ranks=2)
    for rank in (0, 1):
        checkpoints.get(Checkpoint(7, 2, LAUNCH), tmp_path / f"back-{rank}", rank)
        assert names(tmp_path / f"back-{rank}") == sorted(
            [
                f"global_step1/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
                f"rng_state_{rank}.pth",
                "trainer_state.json",
                "zz_last.bin",
            ]
        )
        assert (tmp_path / f"back-{rank}" / f"rng_state_{rank}.pth").read_text() == f"random {rank} at 7"
        assert (tmp_path / f"back-{rank}" / "trainer_state.json").read_text() == "state at 7"


def test_a_rank_beyond_those_that_made_it_gets_the_common_files(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    put(checkpoints, tmp_path, 7)
    checkpoints.get(Checkpoint(7, 1, LAUNCH), tmp_path / "back", 1)
    assert names(tmp_path / "back") == ["trainer_state.json", "zz_last.bin"]


def test_a_file_that_changed_is_an_error_that_names_it(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    put(checkpoints, tmp_path, 7)
    (place / "step-00000007/trainer_state.json").write_text("state at 8")
    with pytest.raises(CheckpointError, match=r"step-00000007/trainer_state\.json is not what was put there"):
        checkpoints.get(Checkpoint(7, 1, LAUNCH), tmp_path / "back", 0)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[]", b"{}", b"[1]", b'[{"file": "a"}]', b"nul"])
def test_a_damaged_list_is_an_error_of_its_checkpoint(checkpoints: CheckpointStore, tmp_path: Path, place: Path, damage: bytes) -> None:
    put(checkpoints, tmp_path, 7)
    next((place / "step-00000007").glob("_rank-*")).write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"step-00000007"):
        checkpoints.get(Checkpoint(7, 1, LAUNCH), tmp_path / "back", 0)


def test_another_ranks_file_that_changed_is_no_concern(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    put(checkpoints, tmp_path, 7, num_ranks=2)
    (place / "step-00000007/rng_state_1.pth").write_text("torn")
    checkpoints.get(Checkpoint(7, 2, LAUNCH), tmp_path / "back-0", 0)
    with pytest.raises(CheckpointError, match="rng_state_1"):
        checkpoints.get(Checkpoint(7, 2, LAUNCH), tmp_path / "back-1", 1)


def test_the_list_comes_after_the_files(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    (place / "step-00000007/zz_last.bin").mkdir(parents=True)  # the last file by name cannot be written
    with pytest.raises(OSError, match="zz_last"):
        put(checkpoints, tmp_path, 7)
    assert "step-00000007/trainer_state.json" in names(place)
    assert not [name for name in names(place) if "_rank-" in name]
    assert checkpoints.whole() == []


def test_an_optimizer_larger_than_the_memory_that_is_left_is_put_and_brought_back(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    """64 MB, of which never more than a few are in memory."""
    folder = files_of_rank(tmp_path / "local", 0)
    with (folder / "optimizer.pt").open("wb") as file:
        for number in range(64):
            file.write(bytes([number]) * 2**20)
    tracemalloc.start()
    try:
        checkpoints.put(folder, Checkpoint(7, 1, LAUNCH), 0)
        checkpoints.get(Checkpoint(7, 1, LAUNCH), tmp_path / "back", 0)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert filecmp.cmp(folder / "optimizer.pt", tmp_path / "back/optimizer.pt", shallow=False)


def test_a_list_names_every_file_with_its_digest(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    put(checkpoints, tmp_path, 7)
    listed = json.loads((place / f"step-00000007/_rank-00000-of-00001-{LAUNCH}.json").read_text())
    assert {entry["file"] for entry in listed} == {name.removeprefix("step-00000007/") for name in names(place) if "_rank-0" not in name}
    assert all(entry["bytes"] > 0 and len(entry["sha256"]) == 64 for entry in listed)


def test_a_second_writer_of_the_same_step_leaves_it_whole(checkpoints: CheckpointStore, tmp_path: Path) -> None:
    """Two runs of one recipe at once, or a rank that does its step again."""
    put(checkpoints, tmp_path, 7)
    again = CheckpointStore(checkpoints.output)
    again.put(files_of_rank(tmp_path / "again", 0, "at 7"), Checkpoint(7, 1, OTHER_LAUNCH), 0)
    assert checkpoints.whole() == [Checkpoint(7, 1, OTHER_LAUNCH)]
    checkpoints.get(Checkpoint(7, 1, OTHER_LAUNCH), tmp_path / "back", 0)
    assert (tmp_path / "back/trainer_state.json").read_text() == "state at 7"


def test_a_checkpoint_whose_files_are_being_replaced_is_not_whole(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    """A rank was killed after its list, the other before its own; then both come to that step again."""
    put(checkpoints, tmp_path, 7, num_ranks=2, ranks=(0,))
    (place / "step-00000007/zz_last.bin").unlink()
    (place / "step-00000007/zz_last.bin").mkdir()  # where the first is killed this time
    with pytest.raises(OSError, match="zz_last"):
        checkpoints.put(files_of_rank(tmp_path / "again", 0, "at 7 again"), Checkpoint(7, 2, LAUNCH), 0)
    put(checkpoints, tmp_path, 7, num_ranks=2, ranks=(1,))
    assert checkpoints.whole() == []


def steps(place: Path) -> list[int]:
    return sorted({int(name.partition("/")[0].removeprefix("step-")) for name in names(place)})


def test_only_the_newest_whole_ones_are_kept_with_what_is_under_way(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    for step in (2, 4, 6):
        put(checkpoints, tmp_path, step)
    put(checkpoints, tmp_path, 5, num_ranks=2, ranks=(0,))  # was never finished
    put(checkpoints, tmp_path, 8, num_ranks=2, ranks=(1,))  # may be any moment
    checkpoints.keep_newest(2)
    assert steps(place) == [4, 6, 8]
    assert [each.step for each in checkpoints.whole()] == [4, 6]
    checkpoints.keep_newest(1)
    assert steps(place) == [6, 8]


def test_with_fewer_than_are_kept_nothing_goes(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    put(checkpoints, tmp_path, 2)
    put(checkpoints, tmp_path, 4)
    checkpoints.keep_newest(5)
    assert steps(place) == [2, 4]


def test_dropping_leaves_nothing_of_them_and_all_else(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    checkpoints.output.store.write("models/m@1/record.json", b"{}")
    checkpoints.drop()  # none there
    put(checkpoints, tmp_path, 2)
    put(checkpoints, tmp_path, 9, num_ranks=2, ranks=(1,))
    checkpoints.drop()
    assert names(place) == []
    assert checkpoints.whole() == []
    assert checkpoints.output.store.keys("models/m@1") == ["models/m@1/record.json"]


def test_the_uploader_puts_checkpoints_away_and_clears_up_behind_itself(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    uploader = Uploader(checkpoints, rank=0, num_ranks=1, launch=LAUNCH, num_kept=2)
    folders = [files_of_rank(tmp_path / f"checkpoint-{step}", 0) for step in (2, 4, 6)]
    for step, folder in zip((2, 4, 6), folders, strict=True):
        uploader.put(folder, step)
    uploader.close()
    assert [each.step for each in checkpoints.whole()] == [4, 6]
    assert steps(place) == [4, 6]
    assert not any(folder.exists() for folder in folders)


def test_only_the_first_rank_deletes_old_ones(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    for step in (2, 4):
        put(checkpoints, tmp_path, step, num_ranks=2, ranks=(0,))
    uploader = Uploader(checkpoints, rank=1, num_ranks=2, launch=LAUNCH, num_kept=1)
    for step in (2, 4):
        uploader.put(files_of_rank(tmp_path / f"checkpoint-{step}", 1), step)
    uploader.close()
    assert steps(place) == [2, 4]
    assert checkpoints.whole() == [Checkpoint(2, 2, LAUNCH), Checkpoint(4, 2, LAUNCH)]


def test_an_error_of_the_uploader_is_raised_when_it_is_closed(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    (place / "step-00000002/zz_last.bin").mkdir(parents=True)
    uploader = Uploader(checkpoints, rank=0, num_ranks=1, launch=LAUNCH, num_kept=2)
    uploader.put(files_of_rank(tmp_path / "checkpoint-2", 0), 2)
    with pytest.raises(OSError, match="zz_last"):
        uploader.close()
    assert checkpoints.whole() == []


def test_an_error_of_the_uploader_is_raised_at_the_next_checkpoint(checkpoints: CheckpointStore, tmp_path: Path, place: Path) -> None:
    (place / "step-00000002/zz_last.bin").mkdir(parents=True)
    uploader = Uploader(checkpoints, rank=0, num_ranks=1, launch=LAUNCH, num_kept=2)
    first, second = (files_of_rank(tmp_path / f"checkpoint-{step}", 0) for step in (2, 4))
    uploader.put(first, 2)
    gone = threading.Event()
    for _ in range(200):  # until the thread has failed and cleared the folder
        if not first.exists():
            break
        gone.wait(0.05)
    with pytest.raises(OSError, match="zz_last"):
        uploader.put(second, 4)
    with pytest.raises(OSError, match="zz_last"):
        uploader.close()
    assert steps(place) == [2]  # nothing was put after what went wrong


def test_what_a_kill_left_of_a_file_under_way_goes_too(tmp_path: Path) -> None:
    output = Output(StoreAddress(str(tmp_path)), "models-preft/m@1", {})
    left = tmp_path / "models-preft/m@1/_checkpoints/step-00000002/.tmp-optimizer.pt-1a2b"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    CheckpointStore(output).drop()
    assert not left.exists()
