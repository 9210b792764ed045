"""What the demo says at its end, which nothing else reads: the columns it takes from the report's CSV files must be there."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from pipeline_builders import run
from scored_store import Run, write_scores
from script_loader import load_script

from bioie_ray.pipeline.report import make_report

RUNS = (
    Run("biorelex", "zero-shot", 0, 0.3),
    Run("biorelex", "similarity", 3, 0.8, name="grid-biorelex-smollm2-similarity-3"),
    *(Run("biorelex", "zero-shot", 0, skill, model=stage, name=f"dfpo-{stage}") for stage, skill in (("postft", 0.9), ("base", 0.1), ("preft", 0.6))),
)  # fmt: skip


@pytest.fixture(scope="module")
def summary(repository: Path) -> ModuleType:
    return load_script(repository / "scripts/demo_summary.py")


def test_the_demo_ends_with_its_tables_and_where_to_look(summary: ModuleType, tmp_path: Path) -> None:
    store = write_scores(tmp_path, RUNS)
    for name, method in (("demo-biorelex-rag-icl", "bm25"), ("demo-biorelex-ders", "ders"), ("grid-biorelex", "fers")):
        run(tmp_path, task="biorelex", name=name, select={"method": method, "rerank": False, "k": 12})
    make_report([str(store)], store / "report.html")
    lines = list(summary.summary(store))
    coverage, scores, stages, where = "\n".join(lines).strip().split("\n\n")
    assert sorted(line.split()[:2] for line in coverage.splitlines()[1:]) == [["biorelex", "bm25"], ["biorelex", "ders"]]
    assert [line.split()[:3] for line in scores.splitlines()[1:]] == [["biorelex", "zero-shot", "0"], ["biorelex", "similarity", "3"]]
    f1 = [float(line.split()[3]) for line in scores.splitlines()[1:]]
    assert 0 < f1[0] < f1[1] <= 1
    assert [line.split()[0] for line in stages.splitlines()[1:]] == ["base", "preft", "postft"]
    for line in where.splitlines():
        assert Path(line.split()[-1]).exists()
