from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_index.py"


@pytest.mark.slow
def test_the_benchmark_measures_every_kind_at_every_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(12, 24))[rng.integers(12, size=300)] + rng.normal(scale=0.5, size=(300, 24))
    np.save(tmp_path / "sentences.npy", (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    plot = tmp_path / "growth.svg"
    sizes = ["--sizes", "400,800", "--shard", "400", "--queries", "40", "--repeats", "1", "--ivf-lists", "10", "--ivf-probes", "8"]
    command = [sys.executable, str(SCRIPT), "--work", str(tmp_path), "--plot", str(plot), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "points.json").read_text())["points"]
    assert [(point["size"], point["kind"]) for point in points] == [(size, kind) for size in (400, 800) for kind in ("flat", "ivf", "hnsw")]
    assert all(point["recall"] > 0.9 for point in points)
    assert all(point["recall"] == 1.0 for point in points if point["kind"] == "flat")
    assert "260 of real sentences" in done.stdout
    assert done.stdout.count("\n| 800 |") == 3
    assert "<svg" in plot.read_text()


def test_the_benchmark_says_what_it_lacks(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--work", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.strip() == f"{tmp_path}/sentences.npy does not exist yet: give --source, a folder of corpora, to make it"
