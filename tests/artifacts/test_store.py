from __future__ import annotations

import errno
import filecmp
import multiprocessing
import os
import tracemalloc
from pathlib import Path

import pytest

import bioie_ray.artifacts.object_store as store_module
from bioie_ray.artifacts.store import Store, StoreAddress, StoreError, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(StoreAddress(str(tmp_path / "store")))


def test_objects_come_back_whole(store: Store) -> None:
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two")
    assert store.read("a/b.bin") == b"two"
    assert store.exists("a/b.bin")
    assert not store.exists("a")
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")
    with pytest.raises(FileNotFoundError):
        store.read("a/b.bin")


def test_create_never_replaces(store: Store) -> None:
    assert store.create("k", b"first")
    assert not store.create("k", b"second")
    assert store.read("k") == b"first"


def test_keys_are_sorted_and_below_the_prefix(store: Store) -> None:
    for key in ("x/2", "x/1", "xx/3", "x/y/4"):
        store.write(key, b"")
    assert store.keys("x") == ["x/1", "x/2", "x/y/4"]
    assert store.keys("none") == []


def _race(root: str, number: int, winners: multiprocessing.Queue[int]) -> None:
    if open_store(StoreAddress(root)).create("once", str(number).encode()):
        winners.put(number)


def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    winners: multiprocessing.Queue[int] = context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), n, winners)) for n in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    winner = winners.get(timeout=5)
    assert winners.empty()
    assert (tmp_path / "once").read_bytes() == str(winner).encode()


@pytest.mark.parametrize("method", ["write", "create"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, code: int) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"no space for .*shard\.parquet \(5 bytes\)"):
        getattr(store, method)("shard.parquet", b"12345")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    (tmp_path / "source").write_bytes(b"12345")
    with pytest.raises(StoreError, match=r"no space for .*shard\.parquet \(5 bytes\)"):
        store.write_file("shard.parquet", tmp_path / "source")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["source"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="check that store= is a folder"):
        open_store(StoreAddress(str(tmp_path / "file"))).write("a", b"")


def test_a_file_system_without_hard_links_is_told_apart(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="Operation not permitted; a store needs a file system with hard links"):
        store.create("a", b"1")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(StoreError, match="cannot open the store nonsense://x"):
        open_store(StoreAddress("nonsense://x"))


def test_unreachable_endpoint_says_what_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    monkeypatch.setattr(store_module, "_RETRIES", {"max_retries": 1})
    monkeypatch.setattr(store_module, "_WAIT_S", 3.0)
    store = open_store(StoreAddress("s3://bucket/prefix", "http://127.0.0.1:9"))
    with pytest.raises(StoreError, match=r"s3://bucket/prefix/a.*storage\.endpoint") as caught:
        store.read("a")
    assert "very-secret-value" not in str(caught.value)


def test_a_file_goes_and_comes_piece_by_piece(store: Store, tmp_path: Path) -> None:
    """64 MB of it, and never more than a few in memory."""
    source, target = tmp_path / "source.bin", tmp_path / "target.bin"
    with source.open("wb") as file:
        for number in range(64):
            file.write(bytes([number]) * 2**20)
    tracemalloc.start()
    try:
        store.write_file("a/optimizer.pt", source)
        store.read_file("a/optimizer.pt", target)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert filecmp.cmp(source, target, shallow=False)
    assert store.keys("a") == ["a/optimizer.pt"]
    with pytest.raises(FileNotFoundError):
        store.read_file("a/none", target)
