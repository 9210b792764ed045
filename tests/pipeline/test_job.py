"""A job as a pod runs it: its log in the store, its attempts, SIGTERM, and where its recipe lies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pipeline_builders import documents, write_corpus

from bioie_ray.pipeline.locate import locate_all

NAME = "demo-1a2b3c4d"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    corpus = write_corpus(tmp_path / "bc5cdr", train=documents(range(300)), test=documents(range(300, 304), "t"))
    path = tmp_path / "recipe.yaml"
    data = {
        "name": "demo",
        "job": "select_examples",
        "store": str(tmp_path / "store"),
        "source": str(corpus),
        "prepare": {"documents_per_shard": 2},
        "select": {"method": "ders"},
        "cluster": {"executor": "inline"},
    }
    path.write_text(yaml.safe_dump(data))
    return path


def start(repository: Path, recipe: Path | str, *settings: str, job: str = "select_examples", **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(repository / f"jobs/{job}.py"), "--recipe", str(recipe)]
    command += [argument for setting in settings for argument in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(repository), "BIOIE_JOB_NAME": NAME, "BIOIE_IMAGE": "registry/bioie-ray:0.1.0-cpu"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload,no-any-return]


def until_shards(running: subprocess.Popen[str], store: Path, number: int) -> None:
    folder = store / "corpora/bc5cdr@1/_markers"
    while running.poll() is None and (not folder.is_dir() or len(list(folder.iterdir())) < number):
        time.sleep(0.002)
    assert running.poll() is None, f"over too soon: {running.communicate()[1]}"


def log(store: Path, name: str = "driver") -> str:
    return (store / f"_logs/{NAME}/{name}.log").read_text()


EXECUTORS = ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_sigterm_ends_a_job_at_once_with_a_word_and_the_next_attempt_goes_on(
    repository: Path, tmp_path: Path, recipe: Path, executor: str
) -> None:
    store = tmp_path / "store"
    settings = [f"cluster.executor={executor}", "cluster.num_workers=1"]
    running = start(repository, recipe, *settings)
    until_shards(running, store, 3)
    told = time.monotonic()
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=120)[1]
    assert running.returncode == 143, said
    assert said.splitlines()[-1] == "stopped by SIGTERM; run again, it goes on where it stopped"
    assert "Traceback" not in said
    assert log(store).endswith("stopped by SIGTERM; run again, it goes on where it stopped\n")
    assert not (store / "corpora/bc5cdr@1/record.json").exists()
    assert time.monotonic() - told < 60  # a bound for a busy machine; it is two seconds on a quiet one

    again = start(repository, recipe, *settings)
    said = again.communicate(timeout=600)[1]
    assert again.returncode == 0, said
    assert log(store).startswith("attempt 2, begun")
    assert "stopped by SIGTERM" in log(store, "driver-1")
    for line in (line for line in said.splitlines() if "logging.cc" not in line):  # Ray's C++ speaks past Python
        assert line in log(store)
    record = json.loads((store / "corpora/bc5cdr@1/record.json").read_text())
    assert record["timings"]["shards_kept"] >= 2
    usage = record["usage"]
    assert usage["attempts"] == 2
    assert list(usage["groups"]) == ["local"]
    assert usage["groups"]["local"]["pod_seconds"] <= usage["wall_s"] + 0.1
    assert usage["groups"]["local"]["peak_memory_mib"] > 50
    assert usage["retries"] == {"worker_deaths": 0, "lost_nodes": 0}


def test_the_first_line_says_what_runs_and_where_and_logs_are_no_outputs(repository: Path, tmp_path: Path, recipe: Path) -> None:
    store = tmp_path / "store"
    running = start(repository, recipe, job="prepare_corpora")
    said = running.communicate(timeout=300)[1].splitlines()
    assert running.returncode == 0
    assert said[0] == f"prepare_corpora of demo@1: 1 outputs in {store}; registry/bioie-ray:0.1.0-cpu, no Ray"
    assert said[1].endswith(": 1 of 1 units to do")
    assert [output.key for output in locate_all([str(store)])] == ["corpora/bc5cdr@1"]  # the job of the file, not of the recipe
    shown = subprocess.run(
        [sys.executable, "-m", "bioie_ray.cli", "show", str(store / "corpora/bc5cdr@1")],
        env={**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pod-s" in shown
    assert "1 attempt" in shown


def test_an_error_that_ends_a_job_is_in_its_log(repository: Path, tmp_path: Path, recipe: Path) -> None:
    running = start(repository, recipe, f"source={tmp_path / 'nowhere'}")
    said = running.communicate(timeout=300)[1]
    assert running.returncode == 1
    assert said.splitlines()[-1].startswith("error: ") or "error: " in said
    assert log(tmp_path / "store").endswith(said[said.index("error: ") :])


def test_recipes_by_a_relative_name_and_through_the_links_of_a_volume(repository: Path, tmp_path: Path, recipe: Path) -> None:
    """A downward-API volume holds links to a folder of its own that is swapped as a whole."""
    volume = tmp_path / "etc-bioie"
    (volume / "..2026").mkdir(parents=True)
    (volume / "..2026/recipe.yaml").write_text(recipe.read_text())
    (volume / "..data").symlink_to("..2026")
    (volume / "recipe.yaml").symlink_to("..data/recipe.yaml")
    for place, folder in ((volume / "recipe.yaml", tmp_path), ("recipe.yaml", volume)):
        running = start(repository, place, "prepare.documents_per_shard=100", job="prepare_corpora", cwd=folder)
        said = running.communicate(timeout=300)[1]
        assert running.returncode == 0, said
