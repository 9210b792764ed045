"""The pictures of BENCHMARKS.md: what is drawn is what reports and trainings have."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from script_loader import load_script


@pytest.fixture(scope="module")
def plots(repository: Path) -> ModuleType:
    return load_script(repository / "scripts/plot_benchmarks.py")


def test_coverage_has_a_panel_a_task_with_the_best_method_on_top(plots: ModuleType, tmp_path: Path) -> None:
    table = tmp_path / "report.csv"
    table.write_text(
        "task,method,coverage,coverage_low,coverage_high\na,ders,0.1,0.05,0.2\na,bm25,0.5,0.4,0.6\nb,ders,0.3,0.1,0.4\nb,bm25,0.2,0.1,0.3\n"
    )
    figure = plots.coverage(table)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ders", "bm25"]
    means = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert means == [10, 50]


def test_every_method_begins_at_zero_shot_and_only_whole_corrected_scores_are_drawn(plots: ModuleType, tmp_path: Path) -> None:
    lines = ["task,method,num_examples,variant,repeat,f1,f1_low,f1_high"]
    for method, number, f1 in (("zero-shot", 0, 0.05), ("ders", 3, 0.2), ("ders", 1, 0.1), ("bm25", 3, 0.4)):
        lines += [
            f"a,{method},{number},{variant},{repeat},{f1},{f1 / 2},{2 * f1}" for variant in ("raw", "corrected") for repeat in ("all", 1)
        ]
    table = tmp_path / "report.scores.csv"
    table.write_text("\n".join(lines) + "\n")
    (axis,) = plots.examples(table).axes
    drawn = {line.get_label(): ([round(x) for x in line.get_xdata()], list(line.get_ydata())) for line in axis.lines}
    assert drawn == {"bm25": ([0, 3], [5, 40]), "ders": ([0, 1, 3], [5, 10, 20])}
    assert [path.vertices[:, 1].tolist() for path in axis.collections[0].get_paths()] == [[2.5, 10], [20, 80]]


def test_dpop_is_told_from_dpo_by_the_record_and_seeds_are_averaged(plots: ModuleType, tmp_path: Path) -> None:
    for name, penalty, values in (("one", 2.0, (0.0, 0.2)), ("two", 2.0, (0.2, 0.4)), ("plain", 0.0, (0.0, -0.6))):
        folder = tmp_path / f"models-dpop/{name}@1"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps({"recipe": {"task": "biorelex", "dpop": {"penalty": penalty}}}))
        steps = [{"step": step, "logratios/chosen": value, "rewards/margins": 0.0} for step, value in enumerate(values, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in [*steps, {"step": 2, "train_runtime": 1.0}]))
    (tmp_path / "models-dpop/unfinished@1").mkdir()
    ratios, margins = plots.dpop([tmp_path]).axes
    thick = {line.get_label(): list(line.get_ydata()) for line in ratios.lines if line.get_linewidth() == 2}
    assert thick == {"DPOP (2 seeds)": pytest.approx([0.1, 0.3]), "DPO (1 seed)": [0.0, -0.6]}
    assert margins.get_title() == "biorelex: reward margin"
