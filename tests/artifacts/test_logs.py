"""The driver's log in the store: attempts, sizes, secrets, and a store that goes away."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from bioie_ray.artifacts import logs
from bioie_ray.artifacts.logs import DriverLog, driver_log_key, job_name, kept_log
from bioie_ray.artifacts.store import StoreAddress, open_store


def log_of(folder: Path, name: str = "demo-1a2b") -> str:
    return (folder / driver_log_key(name)).read_text()


def test_a_name_comes_from_the_manifest_else_from_ray_job_submit() -> None:
    submitted = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"metadata": {"job_submission_id": "raysubmit_Ab1"}})}
    assert job_name({**submitted, "BIOIE_JOB_NAME": "demo-1a2b"}) == "demo-1a2b"
    assert job_name(submitted) == "raysubmit_Ab1"
    assert job_name({}) is None
    assert job_name({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}) is None
    assert job_name({"BIOIE_JOB_NAME": "../../etc/x"}) == "-..-etc-x"


def test_both_streams_are_kept_and_still_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with kept_log(open_store(StoreAddress(str(tmp_path))), "demo-1a2b") as attempt:
        print("to people")
        print("to the log", file=sys.stderr)
        assert not sys.stderr.isatty()
    assert (sys.stdout, sys.stderr) == before
    said = capsys.readouterr()
    assert (said.out, said.err) == ("to people\n", "to the log\n")
    assert attempt == 1
    first, *rest = log_of(tmp_path).splitlines()
    assert first.startswith("attempt 1, begun 20")
    assert rest == ["to people", "to the log"]


def test_without_a_name_nothing_is_kept(tmp_path: Path) -> None:
    with kept_log(open_store(StoreAddress(str(tmp_path))), None) as attempt:
        print("here")
    assert attempt == 1
    assert list(tmp_path.iterdir()) == []


def test_every_attempt_keeps_its_log_and_the_latest_has_the_plain_name(tmp_path: Path) -> None:
    store = open_store(StoreAddress(str(tmp_path)))
    for number in (1, 2, 3):
        with kept_log(store, "demo-1a2b") as attempt:
            print(f"words of {number}")
        assert attempt == number
    assert "words of 3" in log_of(tmp_path)
    for number in (1, 2):
        assert f"words of {number}" in (tmp_path / f"_logs/demo-1a2b/driver-{number}.log").read_text()
    assert len(list((tmp_path / "_logs/demo-1a2b").iterdir())) == 3


def test_how_it_ended_is_the_last_line(tmp_path: Path) -> None:
    store = open_store(StoreAddress(str(tmp_path)))
    with pytest.raises(ValueError, match="nothing there"), kept_log(store, "demo-1a2b"):
        raise ValueError("nothing there")
    assert log_of(tmp_path).endswith("error: nothing there\n")
    with pytest.raises(ZeroDivisionError), kept_log(store, "demo-1a2b"):
        print(1 / 0)
    assert "Traceback" in log_of(tmp_path)
    assert log_of(tmp_path).endswith("ZeroDivisionError: division by zero\n")


def test_what_is_too_long_keeps_head_and_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_HEAD_CHARS", 100)
    monkeypatch.setattr(logs, "_TAIL_CHARS", 200)
    log = DriverLog(open_store(StoreAddress(str(tmp_path))), "x", {})
    written = ""
    for number in range(1_000):
        log.write(f"line {number}\n")
        written += f"line {number}\n"
        head, _, rest = log.text().partition("\n[... ")
        if rest:
            left_out, _, tail = rest.partition(" characters left out ...]\n")
            assert (len(head), len(tail)) == (100, 200)
            assert written == head + written[100 : 100 + int(left_out.replace(",", ""))] + tail
        else:
            assert head == written
    assert rest


def test_no_secret_of_the_environment_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testbed")
    monkeypatch.setenv("SHORT_TOKEN", "on")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "wished-for")
    with kept_log(open_store(StoreAddress(str(tmp_path))), "demo-1a2b"):
        print("signed with wJalrXUtnFEMI, then 0123456", end="")
        print("789abcdef went on to s3.testbed.svc, as wished-for")
    assert log_of(tmp_path).endswith("signed with ***, then *** went on to s3.testbed.svc, as wished-for\n")


def test_it_is_put_while_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_EVERY_S", 0.05)
    with kept_log(open_store(StoreAddress(str(tmp_path))), "demo-1a2b"):
        print("half-way")
        deadline = time.monotonic() + 30
        while "half-way" not in log_of(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_store_that_goes_away_neither_stops_the_job_nor_keeps_it_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "_EVERY_S", 0.05)
    folder = tmp_path / "store"
    begun = time.monotonic()
    with kept_log(open_store(StoreAddress(str(folder))), "demo-1a2b"):
        (folder / "_logs/demo-1a2b/driver.log").unlink()
        (folder / "_logs/demo-1a2b").rmdir()
        (folder / "_logs/demo-1a2b").write_text("a file where the folder was")
        print("on it goes")
        time.sleep(0.5)
    assert time.monotonic() - begun < 20
    assert capsys.readouterr().err.count("the log is not in the store: cannot write") == 1
