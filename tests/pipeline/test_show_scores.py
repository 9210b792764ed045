from __future__ import annotations

import json
from pathlib import Path

from pipeline_builders import record
from scored_store import Run, write_scores
from typer.testing import CliRunner

from bioie_ray.cli import app
from bioie_ray.pipeline.show_scores import score_lines


def test_show_prints_scores_by_repeat_and_their_mean(tmp_path: Path) -> None:
    one = Run("bc5cdr_disease", "ders", 3, 0.5, repeats=2)
    place = write_scores(tmp_path, [one]) / f"scores/{one.key}@1"
    done = CliRunner().invoke(app, ["show", str(place)], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "bc5cdr_disease, smollm2-135m-instruct, 3 examples by ders: 18 documents" in lines
    variants = record(place)["summary"]["variants"]
    for variant, scores in variants.items():
        for row in scores["repeats"]:
            numbers = " ".join(f"{100 * row[name]:.1f}" for name in ("precision", "recall", "f1"))
            assert f"{variant} {row['repeat']} {numbers} {row['malformed']} {row['undecided']}" in lines
        spreads = " ".join(f"{100 * scores[name]['mean']:.1f} ± {100 * scores[name]['sd']:.1f}" for name in ("precision", "recall", "f1"))
        assert any(line.startswith(f"{variant} mean {spreads} {scores['malformed'] / 2:.1f}") for line in lines)
        assert f"{variant} 95 % {100 * scores['interval']['low']:.1f} to {100 * scores['interval']['high']:.1f}" in lines
    assert record(place)["fingerprint"][:16] in done.stdout


def test_show_of_a_single_repeat_without_examples(tmp_path: Path) -> None:
    one = Run("biorelex", "zero-shot", 0, 0.5, repeats=1)
    place = write_scores(tmp_path, [one]) / f"scores/{one.key}@1"
    text = CliRunner().invoke(app, ["show", str(place)], env={"COLUMNS": "120"}).stdout
    assert "biorelex, smollm2-135m-instruct, zero-shot: 16 documents" in text
    assert "mean" not in text


def test_json_has_precision_recall_f1_and_malformed_of_each_repeat(tmp_path: Path) -> None:
    one = Run("biorelex", "ders", 1, 0.5, repeats=2)
    place = write_scores(tmp_path, [one]) / f"scores/{one.key}@1"
    found = json.loads(CliRunner().invoke(app, ["show", str(place), "--json"]).stdout)
    for variant in ("raw", "cleaned", "corrected"):
        assert [{"precision", "recall", "f1", "malformed"} <= set(row) for row in found["summary"]["variants"][variant]["repeats"]] == [
            True,
            True,
        ]


def test_lines_of_several_runs_are_a_plain_table(tmp_path: Path) -> None:
    runs = [Run("biorelex", "zero-shot", 0, 0.5, repeats=2), Run("biorelex", "ders", 1, 0.7, repeats=2)]
    store = write_scores(tmp_path, runs)
    found = [(f"scores/{one.key}@1", record(store / f"scores/{one.key}@1")) for one in runs]
    header, *lines = score_lines(found)
    assert header.split()[-4:] == ["precision", "recall", "f1", "malformed"]
    assert len({len(line) for line in (header, *lines)}) == 1
    assert [line.split()[0] for line in lines[::3]] == [key for key, _ in found]
    for number, (_, told) in enumerate(found):
        for line, (variant, score) in zip(lines[3 * number :], told["summary"]["variants"].items(), strict=False):
            means = [f"{100 * score[name]['mean']:.1f}" for name in ("precision", "recall", "f1")]
            assert line.split()[-5:] == [variant, *means, str(score["malformed"])]


def test_lines_of_a_grid_end_with_how_many_more_there_are(tmp_path: Path) -> None:
    one = Run("biorelex", "zero-shot", 0, 0.5, repeats=1)
    told = record(write_scores(tmp_path, [one]) / f"scores/{one.key}@1")
    lines = score_lines([(f"scores/{n}@1", told) for n in range(23)])
    assert len(lines) == 1 + 3 * 20 + 1
    assert lines[-1].startswith("and 3 more outputs")
    assert score_lines([]) == []
