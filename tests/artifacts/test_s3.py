"""Outputs on a real S3 server: what the store promises, whole runs, a server that goes away, and secrets that stay secret."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from bioie_ray.artifacts.files import local_copy
from bioie_ray.artifacts.output import DriftError, IncompleteError, Output
from bioie_ray.artifacts.store import Store, StoreAddress, StoreError, open_store

if TYPE_CHECKING:
    from conftest import S3Store

TABLE = pa.table({"id": ["a", "b"], "n": [1, 2]})


@pytest.fixture
def address(s3: S3Store) -> StoreAddress:
    return StoreAddress(s3.url, s3.server.endpoint)


@pytest.fixture
def store(address: StoreAddress) -> Store:
    return open_store(address)


def test_objects_come_back_whole(store: Store) -> None:
    assert not store.exists("a/b.bin")
    with pytest.raises(FileNotFoundError, match=r"s3://.*/store/a/b\.bin$"):
        store.read("a/b.bin")
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two" * 100_000)
    assert store.read("a/b.bin") == b"two" * 100_000
    assert store.exists("a/b.bin")
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")


def test_a_large_object_goes_and_comes_in_parts(store: Store) -> None:
    """A request has its time limit and S3 its largest put: weights and optimizers may have more than both."""
    data = bytes(range(251)) * 300_000  # 75 MB
    store.write("large.bin", data)
    assert store.read("large.bin") == data
    assert not store.create("large.bin", b"other")
    assert store.create("created.bin", data)
    assert store.read("created.bin") == data


def test_a_file_goes_and_comes_in_parts(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source.bin", tmp_path / "target.bin"
    for data in (b"", b"small", bytes(range(251)) * 300_000):  # the last 75 MB
        source.write_bytes(data)
        store.write_file("optimizer.pt", source)
        store.read_file("optimizer.pt", target)
        assert target.read_bytes() == store.read("optimizer.pt") == data
    with pytest.raises(FileNotFoundError, match=r"s3://.*/none$"):
        store.read_file("none", target)


def test_create_never_replaces(store: Store) -> None:
    assert store.create("k", b"first")
    assert not store.create("k", b"second")
    assert store.read("k") == b"first"


def test_keys_are_sorted_below_the_prefix_and_may_be_odd(store: Store) -> None:
    for key in ("x/2", "x/1", "xx/3", "x/y/4", "odd@1/a b+é%20.json"):
        store.write(key, key.encode())
    assert store.keys("x") == ["x/1", "x/2", "x/y/4"]
    assert store.keys("none") == []
    assert store.keys("") == sorted(["x/1", "x/2", "x/y/4", "xx/3", "odd@1/a b+é%20.json"])
    assert store.read("odd@1/a b+é%20.json") == "odd@1/a b+é%20.json".encode()


def _race(address: StoreAddress, number: int, start: Barrier, outcomes: Queue[tuple[int, list[bool]]]) -> None:
    store = open_store(address)
    start.wait(timeout=120)
    outcomes.put((number, [store.create(f"once-{key}", str(number).encode()) for key in range(5)]))


def test_one_of_eight_racing_processes_wins_each_object(address: StoreAddress, store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    outcomes, start = context.Queue(), context.Barrier(8)
    racers = [context.Process(target=_race, args=(address, n, start, outcomes)) for n in range(8)]
    for racer in racers:
        racer.start()
    won = dict(outcomes.get(timeout=180) for _ in racers)
    for racer in racers:
        racer.join()
    for key in range(5):
        winners = [number for number, successes in won.items() if successes[key]]
        assert len(winners) == 1
        assert store.read(f"once-{key}") == str(winners[0]).encode()


def test_a_bucket_that_is_not_there_is_one_clear_message(s3: S3Store) -> None:
    store = open_store(StoreAddress("s3://bioie-no-such-bucket/x", s3.server.endpoint))
    for attempt in (lambda: store.write("a", b""), lambda: store.create("a", b""), lambda: store.keys("")):
        with pytest.raises(StoreError, match=r"s3://bioie-no-such-bucket/x.*check the bucket") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_wrong_credentials_are_one_clear_message_without_them(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret-too")
    store = open_store(StoreAddress(f"{s3.url}-with-wrong-credentials", s3.server.endpoint))
    for attempt in (lambda: store.write("a", b""), lambda: store.read("a"), lambda: store.exists("a"), lambda: store.keys("")):
        with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert "wrong-and-secret-too" not in str(caught.value)


def test_an_output_is_claimed_filled_and_finished_by_one(address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Output(address, "rerankers/x@1", {"kind": "rerankers", "k": 1}) for _ in range(2))
    first.claim()
    second.claim()
    with pytest.raises(DriftError, match="k: 1 -> 2"):
        Output(address, "rerankers/x@1", {"kind": "rerankers", "k": 2}).claim()
    marker = first.commit("train-00000", TABLE, {"documents": 2}, [{"id": "c", "reason": "torn"}])
    assert second.commit("train-00000", TABLE, {"documents": 99}) == marker
    assert first.markers() == second.markers() == {"train-00000": marker}
    with pytest.raises(IncompleteError, match=r"not finished \(1 shards done"):
        first.shards()
    entry = first.put_file("model/deep/weights.bin", b"weights")
    assert second.put_file("model/deep/weights.bin", b"other weights") == entry
    assert not first.is_finished()
    assert first.finish({"shards": [{"shard": "train-00000"}]})
    assert not second.finish({"shards": []})
    assert second.is_finished()
    assert second.shards() == ["train-00000"]
    assert second.read_shard("train-00000", ["n"]).to_pydict() == {"n": [1, 2]}
    monkeypatch.setenv("BIOIE_CACHE", str(tmp_path))
    assert (local_copy(second, "model") / "deep/weights.bin").read_bytes() == b"weights"
    with pytest.raises(FileNotFoundError):
        local_copy(second, "nothing")


def job(repository: Path, *settings: str) -> list[str]:
    recipe = ["--recipe", str(repository / "jobs/recipes/select_demo.yaml")]
    small = ["matrix={}", "name=s3", "task=biorelex", "cluster.executor=inline", "select.rerank=false", "prepare.documents_per_shard=4"]
    sets = [argument for setting in (*small, *settings) for argument in ("--set", setting)]
    return [sys.executable, str(repository / "jobs/select_examples.py"), *recipe, *sets]


def run(repository: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    return subprocess.run(job(repository, *settings), env=environment, capture_output=True, text=True, check=False)


def whole(store: Store) -> dict[str, bytes]:
    """Everything in a store but what speaks of times."""
    return {key: store.read(key) for key in store.keys("") if not key.endswith(("record.json", "_progress.txt"))}


METHODS = [
    pytest.param(("select.method=bm25",), id="bm25"),
    pytest.param(("select.method=similarity", "embed.max_seq_length=64"), id="cosine", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_run_gives_the_bytes_of_a_local_one(
    s3: S3Store, store: Store, repository: Path, tmp_path: Path, method: tuple[str, ...]
) -> None:
    remote = run(repository, *method, *s3.settings)
    assert remote.returncode == 0, remote.stderr
    local = run(repository, *method, f"store={tmp_path}")
    assert local.returncode == 0, local.stderr
    found = whole(store)
    assert found == whole(open_store(StoreAddress(str(tmp_path))))
    assert any(key.endswith("best_examples.json") for key in found)

    again = run(repository, *method, *s3.settings)
    assert again.returncode == 0
    assert again.stderr.count("done before") == len({key.rpartition("/_claim.json")[0] for key in found if key.endswith("_claim.json")})

    records = [store.read(key).decode() for key in store.keys("") if key.endswith("record.json")]
    assert records
    for text in (*records, remote.stdout, remote.stderr, again.stderr):
        assert s3.server.environment["AWS_SECRET_ACCESS_KEY"] not in text
        assert f'"{s3.server.environment["AWS_ACCESS_KEY_ID"]}"' not in text
    assert json.loads(records[0])["recipe"]["store"] == s3.url


class LossyProxy:
    """Stands before the server; while ``lose`` is set, requests get through, and their answers do not."""

    def __init__(self, endpoint: str) -> None:
        self._target = urllib.parse.urlsplit(endpoint)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_to_lose = 0
        self.num_lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        assert self._target.hostname is not None
        server = socket.create_connection((self._target.hostname, self._target.port or 80))

        def forward() -> None:
            with suppress(OSError):
                while data := client.recv(2**16):
                    server.sendall(data)

        threading.Thread(target=forward, daemon=True).start()
        with suppress(OSError):
            while data := server.recv(2**16):
                if self.num_to_lose:
                    self.num_to_lose -= 1
                    self.num_lost += 1
                    break
                client.sendall(data)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(s3: S3Store) -> Iterator[LossyProxy]:
    made = LossyProxy(s3.server.endpoint)
    yield made
    made.close()


def test_a_create_whose_answer_was_lost_is_ours(s3: S3Store, proxy: LossyProxy, store: Store) -> None:
    behind = open_store(StoreAddress(s3.url, proxy.endpoint))
    assert behind.create("before", b"x")
    proxy.num_to_lose = 1
    assert behind.create("k", b"ours")
    assert proxy.num_lost == 1
    assert store.read("k") == b"ours"
    proxy.num_to_lose = 1
    assert not behind.create("k", b"of another writer")
    assert proxy.num_lost == 2
    assert store.read("k") == b"ours"


def test_an_output_is_finished_by_the_run_whose_answer_was_lost(s3: S3Store, proxy: LossyProxy) -> None:
    output = Output(StoreAddress(s3.url, proxy.endpoint), "corpora/x@1", {"kind": "corpora"})
    output.claim()
    proxy.num_to_lose = 1
    assert output.finish({"timings": "mine"})
    assert not output.finish({"timings": "another's"})


@pytest.mark.slow
def test_a_server_that_is_gone_for_half_a_minute_is_waited_for(
    s3: S3Store, store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Longer than one call of the client waits, so that the rounds of it are tried too."""
    if s3.server.script is None:
        pytest.skip("the server of BIOIE_TEST_S3 is not ours to stop")
    store.write("before", b"x")
    s3.server.stop()
    back = threading.Timer(30, s3.server.start)
    back.start()
    try:
        begun = time.monotonic()
        assert store.create("k", b"first")
        assert time.monotonic() - begun > 25
    finally:
        back.join()
    assert store.read("before") == b"x"
    assert not store.create("k", b"second")
    assert capfd.readouterr().err.count("does not answer") == 1


def test_a_server_that_is_gone_for_seconds_costs_nothing_that_was_done(s3: S3Store, store: Store, repository: Path, tmp_path: Path) -> None:
    if s3.server.script is None:
        pytest.skip("the server of BIOIE_TEST_S3 is not ours to stop")
    settings = ("select.method=bm25", "prepare.documents_per_shard=1")
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    running = subprocess.Popen(job(repository, *settings, *s3.settings), env=environment, stderr=subprocess.PIPE, text=True)
    markers = "corpora/embedded_biorelex@1/_markers"
    assert s3.server.folder is not None
    folder = s3.server.folder / s3.url.removeprefix("s3://") / markers
    while running.poll() is None and (not folder.is_dir() or len(list(folder.iterdir())) < 5):
        time.sleep(0.002)
    s3.server.stop()
    assert running.poll() is None, "the run was over before the server was stopped"
    time.sleep(4)
    s3.server.start()
    _, said = running.communicate(timeout=400)
    before = {key: store.read(key) for key in store.keys(markers)}
    assert len(before) >= 5
    assert "Traceback" not in said
    if running.returncode != 0:
        assert "cannot create s3://" in said or "cannot write s3://" in said or "cannot read s3://" in said
        again = run(repository, *settings, *s3.settings)
        assert again.returncode == 0, again.stderr
    local = run(repository, *settings, f"store={tmp_path}")
    assert local.returncode == 0, local.stderr
    assert whole(store) == whole(open_store(StoreAddress(str(tmp_path))))
    assert {key: store.read(key) for key in before} == before
