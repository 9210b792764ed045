from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bioie_ray.retrieval.checkpoints import load_checkpoint, save_checkpoint


def test_the_newest_checkpoint_of_the_same_training_comes_back_and_older_ones_go(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 9, {"key": "a", "step": 9, "weights": torch.arange(3)})
    (tmp_path / ".step-00000007.pt.123").write_bytes(b"left by a killed writer")
    newest = save_checkpoint(tmp_path, 10, {"key": "a", "step": 10, "weights": torch.arange(4)})
    assert list(tmp_path.iterdir()) == [newest]
    loaded = load_checkpoint(tmp_path, "a")
    assert loaded is not None
    assert loaded["step"] == 10
    assert torch.equal(loaded["weights"], torch.arange(4))


def test_a_checkpoint_of_another_training_is_not_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, {"key": "other"})
    assert load_checkpoint(tmp_path, "mine") is None
    assert load_checkpoint(tmp_path / "nowhere", "mine") is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_file_is_passed_over_for_the_one_before(tmp_path: Path, share: float) -> None:
    path = save_checkpoint(tmp_path, 5, {"key": "a", "step": 5, "weights": torch.ones(10_000)})
    data = path.read_bytes()
    (tmp_path / "step-00000006.pt").write_bytes(data[: int(len(data) * share)])
    loaded = load_checkpoint(tmp_path, "a")
    assert loaded is not None
    assert loaded["step"] == 5


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 5, {"key": "a", "step": 5})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 6, {"key": "a", "step": 6})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005.pt"]
